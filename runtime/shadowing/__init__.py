"""A candidate beside the live model: copies of requests in, a comparison out."""

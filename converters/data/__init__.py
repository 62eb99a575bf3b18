"""Samples: from files, pictures and iterables, checked, split, and kept on the disk rather than in memory."""

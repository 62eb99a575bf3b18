"""What applications on the device speak to: HTTP and gRPC, their protocols, statistics and metrics."""

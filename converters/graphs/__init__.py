"""What reads or rewrites an ONNX graph without changing its answers beyond what it says: exact compression, smoothing."""

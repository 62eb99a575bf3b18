"""What touches onnxruntime and LiteRT, behind `runtime.engine.Engine`; which provider or delegate is taken."""

"""Networks from ONNX files: checked as data before anything runs them, then run by onnxruntime."""

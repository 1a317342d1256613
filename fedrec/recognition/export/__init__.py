"""Turn a trained network into one ONNX graph; loads torch."""

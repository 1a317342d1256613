"""A model bundle: one ONNX graph, what a photo must become for it, and what is known of the model."""

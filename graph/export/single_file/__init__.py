"""A whole workflow composed into one ONNX graph."""

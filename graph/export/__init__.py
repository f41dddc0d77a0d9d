"""Export: parts of a workflow as ONNX graphs."""

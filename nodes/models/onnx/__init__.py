"""Networks that onnxruntime computes."""

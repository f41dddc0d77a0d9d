"""Torch functions to ONNX models: tracing, gradients, axes, precision and weights."""

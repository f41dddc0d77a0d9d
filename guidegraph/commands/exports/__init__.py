"""What ``export`` writes: a bundle, a single ONNX file, or a page."""

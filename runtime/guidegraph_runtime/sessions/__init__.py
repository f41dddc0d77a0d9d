"""Sessions of onnxruntime, the devices that they run on, and the values that they take."""

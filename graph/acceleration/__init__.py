"""Faster execution of the steps of a loop's body: as one graph in onnxruntime, or as one compiled function of torch."""

"""Weights that files store in fewer bits, as tensors that compute their values when they are used."""

"""Weights of models: where they are, and which of them stay on the device under a budget."""

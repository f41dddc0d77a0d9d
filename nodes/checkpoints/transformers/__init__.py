"""Checkpoints of diffusion transformers."""

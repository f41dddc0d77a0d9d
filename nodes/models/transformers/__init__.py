"""Diffusion transformers: DiT and MMDiT, new ones to train, and the networks of released checkpoints."""

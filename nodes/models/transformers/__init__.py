"""Diffusion transformers: DiT and MMDiT, new ones to train, and those of released checkpoints."""

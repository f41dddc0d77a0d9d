"""Diffusion transformers: DiT and MMDiT, new ones to train, and released checkpoints' ones."""

"""Guidance: how predictions and scores are combined, and hooks into a denoiser."""

"""Flux.1 (Black Forest Labs 2024): network, file and diffusers folder."""

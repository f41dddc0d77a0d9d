"""Stable Diffusion 3 (Esser et al. 2024): its single file. The network is guidegraph's MMDiT."""

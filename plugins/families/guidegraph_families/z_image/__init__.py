"""Z-Image (2025): network, file and diffusers folder."""

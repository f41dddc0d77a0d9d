"""PixArt-Σ and PixArt-α (Chen et al. 2023, 2024): network, file and diffusers folder."""

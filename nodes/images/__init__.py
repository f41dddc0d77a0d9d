"""Pictures and their latents."""

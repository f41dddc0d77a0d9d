"""LoRA on exported graphs."""

"""Training: losses, adversarial training and LoRA."""

"""Networks that extract features from pictures."""

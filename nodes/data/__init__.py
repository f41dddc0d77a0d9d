"""Data sets: composed scenes, single emoji, Fashion-MNIST and folders of pictures."""

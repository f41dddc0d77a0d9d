"""Scenes of 128 pixels with their captions, boxes and held-out compositions."""

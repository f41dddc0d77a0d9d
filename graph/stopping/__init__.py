"""Stopping a loop between two iterations, and going on from there."""

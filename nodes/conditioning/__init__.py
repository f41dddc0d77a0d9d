"""Conditions: text, labels, semantic maps, masks and pictures."""

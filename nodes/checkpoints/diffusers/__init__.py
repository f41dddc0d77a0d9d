"""Folders in diffusers' layout."""

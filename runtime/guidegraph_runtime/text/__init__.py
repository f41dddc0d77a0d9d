"""Prompts and tokens."""

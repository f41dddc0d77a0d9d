"""Samplers, each as a function from noise levels to a table."""

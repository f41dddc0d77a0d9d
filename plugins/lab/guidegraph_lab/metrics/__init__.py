"""Metrics: how good samples are, and tables and plots of the results."""

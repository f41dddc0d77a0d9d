"""Limits on workflows: resources, files and code."""

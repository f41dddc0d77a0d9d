"""Workflows as SVG drawings."""

"""Checkpoints that others released: reading their files, telling their architecture, filling our modules."""

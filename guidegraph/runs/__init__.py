"""Runs into folders: outputs, records, recipes and observers."""

"""The built-in nodes, one file per component."""

"""Picture files and palettes."""

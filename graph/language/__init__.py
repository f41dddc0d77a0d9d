"""The workflow language: YAML trees, the parsed workflow, its parameters and their values."""

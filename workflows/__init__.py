"""The workflows, data and weights that ship with the package."""

"""The checks of a node, by subject."""

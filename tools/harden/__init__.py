"""Long attempts to break guidegraph, by one command that prints what it counted: ``python -m tools.harden``."""

"""The torch-free part of guidegraph: what the engine and an exported bundle share, so that each exists once."""

__version__ = "0.1.0"

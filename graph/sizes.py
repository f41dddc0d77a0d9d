"""Sizes in bytes as people write them: ``6GB``, ``800 MB``, ``1.5GiB``, ``4096``. The runtime reads them too."""

from guidegraph_runtime.sizes import parse_size, show_size

__all__ = ["parse_size", "show_size"]

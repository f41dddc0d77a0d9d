"""Parsing and formatting of byte sizes (``6GB``, ``800 MB``, ``1.5GiB``, ``4096``), shared with the runtime."""

from guidegraph_runtime.machine.byte_sizes import parse_size, show_size

__all__ = ["parse_size", "show_size"]

"""Read JSON that comes from elsewhere: a record of a run, a description of a sweep, the text in a picture.

The file must be a regular one, and its size and the number of its values are limited before it is parsed: 57 MB of
``[]`` would take 1.3 GB. Bundles have a stricter reader (``bundle/strict_json.py``).
"""

from __future__ import annotations

import json
import os
from typing import Any

from guidegraph_runtime.files.regular_files import open_regular
from guidegraph_runtime.machine.byte_sizes import show_size

MAX_BYTES = 64 << 20
MAX_VALUES = 1_000_000
"""Values take up to about 100 bytes each, with their place in a list or an object."""


def parse_json(text: bytes | str, *, max_values: int = MAX_VALUES) -> Any:
    """Parse a JSON text. Raises ``ValueError`` if it is not JSON, too deep, or larger than the limits.

    max_values: how many values it may have, estimated from its commas and brackets, those in texts included.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"expected JSON of at most {show_size(MAX_BYTES)}, found {show_size(len(text))}")
    if isinstance(text, bytes):
        count = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        count = text.count(",") + text.count("[") + text.count("{")
    if count > max_values:
        raise ValueError(f"expected JSON with at most {max_values:,} values, found about {count:,}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON, found lists or objects in each other that are too deep") from None


def read_json(path: str | os.PathLike[str], *, max_values: int = MAX_VALUES) -> Any:
    """Read a JSON file, with a byte order mark or without. Raises as ``parse_json`` and ``open_regular``."""
    with open_regular(path, limit="text_bytes") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise ValueError(f"expected JSON of at most {show_size(MAX_BYTES)}, found {show_size(size)}")
        data = file.read(MAX_BYTES + 1)
    return parse_json(data.removeprefix(b"\xef\xbb\xbf"), max_values=max_values)

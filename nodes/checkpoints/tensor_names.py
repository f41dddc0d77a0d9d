"""Selects tensors by their names, and reads numbers from names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def numbers_in_names(names: Iterable[str], pattern: str) -> set[int]:
    """The numbers that a pattern's only group matches at the start of names."""
    expression = re.compile(pattern)
    return {int(match[1]) for name in names if (match := expression.match(name))}

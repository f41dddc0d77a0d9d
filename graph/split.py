"""How a node that cannot be traced is exported all the same: in two halves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Split:
    """An operation of the torch-free runtime, and a function of what it gives that can be traced.

    operation: the runtime's, such as ``text.tokenize``. ports: what it calls each of the node's ports. settings: its
    literals; bytes become a file of the bundle. outputs: the tensors that it gives, by name, each with its axes as port
    types have them: "B", "M", a size. function: takes those tensors by name, and gives what the node gives.
    """

    operation: str
    ports: Mapping[str, str]
    outputs: Mapping[str, tuple[str | int, ...]]
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

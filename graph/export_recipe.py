"""Export of nodes that cannot be traced: an operation of the runtime, then a traced function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ExportRecipe:
    """An operation of the torch-free runtime, and a traceable function of its outputs.

    operation: its name in the runtime, such as ``text.tokenize``. ports: the operation's name for each of the node's
    ports. settings: its literals; bytes become a file of the bundle. outputs: its output tensors by name, each with its
    axes as in a port type: "B", "M", or a size. function: takes those tensors by name and returns the node's result.
    beside: a port of the operation for a list, or "" if no port takes one. It takes the parameters and constants that
    other calls of the operation with the same settings read, so that all fill up their results to one size, such as the
    longest prompt's. The function must mark what is filled up, for example in a mask, so that it changes no result.
    """

    operation: str
    ports: Mapping[str, str]
    outputs: Mapping[str, tuple[str | int, ...]]
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: str = ""

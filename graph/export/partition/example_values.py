"""The values of the example run, by the names that they get in a bundle, as host calls and choices read them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from guidegraph.graph.ir import Source


@dataclass
class HostPlan:
    """tables: tensors that are the same in every run, by name. files: contents of operations' files by name."""

    tables: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add_file(self, name: str, data: bytes) -> str:
        """Add a file with these contents and return its name; equal contents share a file."""
        stem, dot, ending = name.partition(".")
        file_name = f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}{dot}{ending}"
        self.files[file_name] = data
        return file_name


class ExampleValues(Protocol):
    """An example of every value, and its names in the bundle.

    run_names: the names in the run of non-tensor fields, by their names at export.
    """

    host: HostPlan
    run_names: dict[str, str]

    def is_dynamic(self, source: Source) -> bool:
        """Whether a value may change from run to run."""

    def name(self, source: Source) -> str:
        """The name of a value in the bundle."""

    def value(self, source: Source) -> Any:
        """The example of a value."""

    def value_names(self, source: Source) -> dict[str, str]:
        """The names of a value's tensors and numbers, by path."""

    def field_names(self, source: Source) -> dict[str, str]:
        """The names in the run of a value's non-tensor fields, by path."""

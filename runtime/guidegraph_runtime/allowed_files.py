"""Restrict the files that a bundle reads to its own and to those that the user gives as ``Path`` objects.

A plan is JSON, so its paths would be text. Operations that read files accept a ``Path`` or bytes but no text, so a plan
cannot name a file of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from guidegraph_runtime.bundle.manifest_types import Manifest, walk_operations
from guidegraph_runtime.declare.settings import kind_of, names_file
from guidegraph_runtime.errors import BundleError, format_value
from guidegraph_runtime.operations import OPERATIONS


def takes_file(operation: str, setting: str) -> bool:
    """Whether a setting of an operation names a file."""
    if operation not in OPERATIONS:
        return False
    return names_file(OPERATIONS[operation].hints.get(setting))


_PICTURES: Mapping[str | None, str] = {"Image": "image", "Mask": "mask", "SemanticMap": "map"}
"""The type of an input that names a file, by the type of port that its file is read as."""


def choose_file_type(operations: Iterable[str]) -> str:
    """The type of an input whose file these operations read: a kind of picture if all of them read pictures.

    A file that is read as two kinds of picture is an image.
    """
    kinds = {_PICTURES.get(kind_of(OPERATIONS[operation].hints["return"]), "path") for operation in operations}
    return kinds.pop() if len(kinds) == 1 else "path" if "path" in kinds else "image"


def as_path(value: Any) -> Any:
    """Convert a user's file names to ``Path`` objects, also in lists."""
    if isinstance(value, list):
        return [as_path(entry) for entry in value]
    return Path(value) if isinstance(value, str) else value


def check_plan(manifest: Manifest, location: str) -> None:
    """Raise ``BundleError`` for an operation that names a file outside the bundle."""
    for operation in walk_operations(manifest.plan):
        for setting, value in operation.settings.items():
            if not takes_file(operation.op, setting) or value is None:
                continue
            if not (isinstance(value, dict) and [*value] == ["file"]):
                message = (
                    f"{operation.node} ({operation.op}): expected one of the bundle's files for '{setting}', found "
                    f"{format_value(value)}: bundles may not read other files; get it from someone you trust"
                )
                raise BundleError(location, "forbidden-read", message)

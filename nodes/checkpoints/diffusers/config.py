"""Checks a diffusers config.json: every field is used, has a supported value, or is refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.nodes.checkpoints.config_values import format_value, is_size


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``ValueError`` that names the file."""
    if not path.is_file():
        raise ValueError(f"there is no file '{path}': the folder is incomplete")
    try:
        content = json.loads(read_regular(path).decode())
    except RecursionError:
        raise ValueError(f"'{path}' holds lists within lists, too deep to read: it is damaged") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds a {type(content).__name__}; expected a JSON object")
    return content


def check_config(
    config: Mapping[Any, Any],
    source: Path | str,
    used: Collection[str],
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: Collection[str] = (),
) -> None:
    """Raise one ``ValueError`` for all fields that are unknown or have an unsupported value.

    used: fields that the caller reads. fixed: fields with their supported values (a field may be absent). ignored:
    fields that do not change what the network computes. Names with a leading underscore are the library's notes.
    """
    problems = []
    for name, value in config.items():
        if not isinstance(name, str):  # YAML allows numbers as names
            problems.append(f"{format_value(name)} is the name of a field, which is not known")
            continue
        if name.startswith("_") or name in used or name in ignored:
            continue
        if name not in fixed:
            if value not in (None, False):
                problems.append(f"'{name}' is {format_value(value)}, which is not known")
        elif value not in fixed[name]:
            supported = " or ".join(repr(allowed) for allowed in fixed[name])
            problems.append(f"'{name}' is {format_value(value)}, and only {supported} is supported")
    if problems:
        raise ValueError(f"'{source}' describes another network: {'; '.join(problems)}. Nothing was loaded")


def expand_levels(value: Any, levels: int, name: str, source: Path | str) -> tuple[int, ...]:
    """Expand one integer, or a list with one for each level, to a tuple. Raises ``ValueError``."""
    values = list(value) if isinstance(value, list | tuple) else [value] * levels
    if len(values) != levels or not all(is_size(item, integers=True) for item in values):
        raise ValueError(
            f"'{source}': '{name}' is {format_value(value)}; expected a whole number, or one for each of {levels} "
            "levels"
        )
    return tuple(values)

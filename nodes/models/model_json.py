"""Reads model.json of a model folder, without torch: the parts of the folder and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidegraph.graph.trust.file_checks import check_path, read_regular
from guidegraph.nodes.models.checksums import read_checksums, verify_parts

FORMAT = 1
INDEX = "model.json"


def locate_file(folder: Path, name: object) -> Path:
    """The path of a file that model.json names. Raises ``ValueError`` unless it is a regular file in the folder."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        raise ValueError(f"{folder / INDEX}: {name!r} is not the plain name of a file in this folder")
    check_path(folder / name)
    return folder / name


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """The parts of a model folder, by name. Raises ``ValueError`` if the path is not a model folder."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"'{folder}' is not a model folder: it has no {INDEX}")
    index = read_json(path)
    parts = index.get("parts") if isinstance(index, dict) and index.get("format") == FORMAT else None
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError(f'{path}: expected {{"format": {FORMAT}, "parts": {{…}}}}')
    verify_parts(parts, read_checksums(index, path), path)
    return parts


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ``ValueError`` if it is not JSON."""
    try:
        return json.loads(read_regular(path).decode())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def list_parts(path: Path) -> list[str]:
    """The names of a model folder's parts. Raises ``ValueError`` if a file of a part is missing."""
    parts = read_index(path)
    for name, part in parts.items():
        for key in ("weights", "tokenizer"):
            if key in part and not (file := locate_file(path, part[key])).is_file():
                raise ValueError(f"part '{name}' of '{path}' needs {file.name}, which is not there: copy it there too")
    return list(parts)

"""Checksums of a model folder: model.json records a checksum for each file and for its own `parts`.

`"checksums": {"files": {FILE: …}, "parts": …}`. A file's checksum is the 128-bit BLAKE2b of its bytes (`b2sum -l 128
FILE`), which the engine computes anyway for its cache; the parts' checksum is the BLAKE2b of their JSON. A folder
without checksums, such as one written by an earlier version, is read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.planning.digest import file_digest

CHECKSUMS = "checksums"
_ON_PURPOSE = "if it was changed on purpose, take '{}' out of \"checksums\" in {}"


def compute_checksums(
    folder: Path, parts: Mapping[str, Any], previous: Mapping[str, Any], written: Iterable[str]
) -> Any:
    """The `checksums` entry of model.json: checksums of the files just written, added to the previous ones."""
    files = dict(previous.get("files", {})) | {name: file_digest(folder / name) for name in written}
    return {"files": dict(sorted(files.items())), "parts": _parts_digest(parts)}


def read_checksums(index: Any, path: Path) -> dict[str, Any]:
    """Return the checksums in a model.json. Raises ``ValueError`` for a malformed entry."""
    entry = index.get(CHECKSUMS, {})
    files = entry.get("files", {}) if isinstance(entry, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(text, str) for text in [*files.values(), entry.get("parts", "")]
    ):
        raise ValueError(f'{path}: expected "checksums": {{"files": {{FILE: TEXT}}, "parts": TEXT}}')
    return dict(entry)


def verify_parts(parts: Mapping[str, Any], entry: Mapping[str, Any], path: Path) -> None:
    """Raise ``ValueError`` if the parts of a model.json have changed since they were saved."""
    if "parts" in entry and entry["parts"] != _parts_digest(parts):
        on_purpose = _ON_PURPOSE.format("parts", path.name)
        raise ValueError(
            f"{path} is damaged: its parts are not those that were saved; restore it from a copy, or {on_purpose}"
        )


def verify_file(file: Path, entry: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a file of a model folder has changed since it was saved."""
    expected = entry.get("files", {}).get(file.name)
    if expected is not None and (actual := file_digest(file)) != expected:
        on_purpose = _ON_PURPOSE.format(file.name, "model.json")
        raise ValueError(
            f"{file} is damaged, or belongs to another model: its checksum is {actual}, and model.json states "
            f"{expected}; restore it from a copy, or {on_purpose}"
        )


def _parts_digest(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

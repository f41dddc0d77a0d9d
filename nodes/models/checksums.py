"""Checksums of a model folder: model.json states what its files and its own parts were when they were saved.

`"checksums": {"files": {FILE: …}, "parts": …}`. A file's is the BLAKE2b of its bytes, 128 bits (`b2sum -l 128 FILE`),
which the engine computes anyway to know a folder again; that of the parts is the same of their JSON. What states none,
such as a folder that an earlier version wrote, is read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.digest import file_digest

CHECKSUMS = "checksums"
_ON_PURPOSE = "if it was changed on purpose, take '{}' out of \"checksums\" in {}"


def checksums(folder: Path, parts: Mapping[str, Any], previous: Mapping[str, Any], written: Iterable[str]) -> Any:
    """The entry of model.json: of the files just written, and of those that it vouched for before."""
    files = dict(previous.get("files", {})) | {name: file_digest(folder / name) for name in written}
    return {"files": dict(sorted(files.items())), "parts": _parts_digest(parts)}


def stated(index: Any, path: Path) -> dict[str, Any]:
    """The checksums that a model.json states. Raises ``ValueError`` for an entry of another form."""
    entry = index.get(CHECKSUMS, {})
    files = entry.get("files", {}) if isinstance(entry, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(text, str) for text in [*files.values(), entry.get("parts", "")]
    ):
        raise ValueError(f'{path}: expected "checksums": {{"files": {{FILE: TEXT}}, "parts": TEXT}}')
    return dict(entry)


def verify_parts(parts: Mapping[str, Any], entry: Mapping[str, Any], path: Path) -> None:
    """Raise ``ValueError`` where the parts of a model.json are not those that were saved."""
    if "parts" in entry and entry["parts"] != _parts_digest(parts):
        on_purpose = _ON_PURPOSE.format("parts", path.name)
        raise ValueError(
            f"{path} is damaged: its parts are not those that were saved; restore it from a copy, or {on_purpose}"
        )


def verify_file(file: Path, entry: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a file of a model folder is not the one that was saved."""
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

"""Reads model.json of a model folder, without torch: the parts of the folder and their files.

Checksums of a model folder: model.json records a checksum for each file and for its own `parts`.

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
from guidegraph.graph.trust.file_checks import check_path, read_regular

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


class MissingPart(AttributeError, ValueError):
    """Raised on use of a part that a model folder does not hold."""


class AbsentPart:
    """Stands for a part that a model lacks, or cannot load without another setting. Any use raises the message."""

    __guidegraph_absent__ = True

    def __init__(self, message: str) -> None:
        self._message = message

    @classmethod
    def of(cls, folder: Path, part: str, parts: Iterable[str]) -> AbsentPart:
        """Stands for a part that a model folder or file does not hold."""
        return cls(f"the model '{folder}' has no part '{part}'; it has {', '.join(parts) or 'none'}")

    def __repr__(self) -> str:
        return self._message

    def __call__(self, *_: object, **__: object) -> Any:
        raise MissingPart(self._message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise MissingPart(self._message)


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

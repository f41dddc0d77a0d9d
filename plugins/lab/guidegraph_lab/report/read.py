"""Read the files of a run or a sweep, without trusting them to be complete or valid."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.nodes.table import Table, to_float
from guidegraph_runtime.files.regular_files import MAX_VALUES, parse_json

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?|inf|Infinity)|nan|NaN")
"""The numbers that a sweep writes. Other texts that Python reads as numbers, such as ``007`` and ``1_0``, are texts."""
LARGEST = 64 << 20
"""The largest text file that is read, in bytes."""


class Unreadable(Exception):
    """A file cannot be used; the message says why, beginning with a verb."""


def result_error(path: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])


def resolve_inside(folder: Path, name: str) -> Path:
    """A file in a folder, by its relative name. Raises ``Unreadable`` if it lies outside or is not a file."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise Unreadable("lies outside of the folder")
        if not path.is_file():
            raise Unreadable("is missing")
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be found: {error}") from None
    return path


def read_text(path: Path) -> str:
    """Raises ``Unreadable``."""
    try:
        if path.stat().st_size > LARGEST:
            raise Unreadable(f"is larger than {LARGEST >> 20} MiB")
        return read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, LimitExceeded) as error:
        raise Unreadable(f"cannot be read: {error}") from None


def read_json(path: Path, *, max_values: int = LARGEST // 8) -> Any:
    """Raises ``Unreadable``."""
    try:
        return parse_json(read_text(path), max_values=max_values)
    except ValueError as error:
        raise Unreadable(f"is not valid JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a record. Raises ``Unreadable``."""
    data = read_json(path, max_values=MAX_VALUES)
    if not isinstance(data, dict):
        raise Unreadable("is not a JSON object")
    return data


def read_csv(path: Path, texts: Collection[str] = ()) -> Table:
    """Read a table: numbers as numbers, empty cells as None. texts: the columns whose cells all stay texts.

    Raises ``Unreadable``.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST))  # the default is 128 KiB
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path), newline=""), strict=True) if row]
    except csv.Error as error:
        raise Unreadable(f"is not a CSV file: {error}") from None
    if not rows or len(set(rows[0])) != len(rows[0]) or any(len(row) != len(rows[0]) for row in rows):
        raise Unreadable("is not a table: expected a line of different names, then lines with as many cells")
    return Table({n: [row[i] if n in texts else parse_cell(row[i]) for row in rows[1:]] for i, n in enumerate(rows[0])})


def parse_cell(text: str) -> float | int | str | None:
    """Parse a CSV cell: a number, a text, or None if it is empty."""
    if text == "":
        return None
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text


def as_table(value: Any) -> Table | None:
    """A table from JSON (columns by name); None for anything else."""
    if not (isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values())):
        return None
    lengths = {len(column) for column in value.values()}
    plain = all(v is None or isinstance(v, (str, int, float)) for column in value.values() for v in column)
    return Table(value) if plain and len(lengths) == 1 and lengths != {0} else None


def get_object(data: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in an object; an empty one if it is missing or of another type."""
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def to_number(value: Any) -> float:
    """A number, NaN for anything else."""
    return to_float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan

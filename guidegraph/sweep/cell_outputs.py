"""The outputs of one cell as the table holds them: numbers by column, tables, and paths of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.nodes.table import CellValue, Table
from guidegraph.sweep.sweep_folder import MAX_OUTPUT_VALUES, OutputFiles
from guidegraph_runtime.files.bounded_json import read_json

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_SMALL = 4096
_SHORT = 16


@dataclass
class Outputs:
    """The outputs of a cell. scalars: by column. tables: by output. pictures: files in the cell's folder, by output."""

    scalars: dict[str, CellValue] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)


def cell_outputs(folder: Path, outputs: Mapping[str, OutputFiles]) -> Outputs:
    """Read from a cell's files the values for the table.

    Numbers, truth values and texts are scalars under the output's name, a tensor of one element too, those in a
    dictionary or a dataclass under ``output.key``, at any depth, and the numbers of a short list or vector under
    ``output.0``, ``output.1``, …. Anything else is left to its file.
    """
    result = Outputs()
    for name, (kind, files) in outputs.items():
        if files and files[0].endswith(".png"):
            result.pictures[name] = files
        elif files[-1:] == [f"{name}.md"]:
            columns = read_json(folder / files[0], max_values=MAX_OUTPUT_VALUES)
            result.tables[name] = Table(
                {column: [_parse_cell(v, True) for v in values] for column, values in columns.items()}
            )
        elif files == [f"{name}.json"]:
            value = read_json(folder / files[0], max_values=MAX_OUTPUT_VALUES)
            result.scalars |= _read_scalars(name, value, number="str" not in kind)
        elif files == [f"{name}.safetensors"] and (folder / files[0]).stat().st_size < _SMALL:
            result.scalars |= _read_tensor(name, folder / files[0])
    return result


def _read_scalars(name: str, value: Any, number: bool) -> dict[str, CellValue]:
    if isinstance(value, dict):
        fields = [(f"{name}.{key}", field) for key, field in value.items()]
        read = [{key: None} if field is None else _read_scalars(key, field, number) for key, field in fields]
        return {key: v for inner in read for key, v in inner.items()}
    if isinstance(value, list):
        cells = [_parse_cell(v, number) for v in value[: _SHORT + 1]]
        numbers = len(cells) <= _SHORT and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in cells)
        return {f"{name}.{i}": v for i, v in enumerate(cells)} if numbers else {}
    return {} if value is None else {name: _parse_cell(value, number)}


def _parse_cell(value: Any, number: bool) -> CellValue:
    """A JSON value; if ``number``, the texts for NaN and infinities become floats."""
    if number and isinstance(value, str):
        return _SPECIAL.get(value, value)
    return value  # type: ignore[no-any-return]


def _read_tensor(name: str, path: Path) -> dict[str, CellValue]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    if set(tensors) != {name}:
        return {}
    tensor = tensors[name]
    if tensor.numel() == 1:
        return {name: tensor.item()}
    is_short = tensor.ndim == 1 and tensor.numel() <= _SHORT
    return {f"{name}.{i}": value for i, value in enumerate(tensor.tolist())} if is_short else {}

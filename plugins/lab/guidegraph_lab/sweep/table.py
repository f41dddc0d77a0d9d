"""A sweep as a table: ``table.csv``, ``table.parquet`` where pyarrow is installed, and ``tables/<output>.csv``."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.nodes.table import CellValue, Table
from guidegraph.runs.recipe import portable_value
from guidegraph_lab.sweep.cells import Cell
from guidegraph_lab.sweep.sweep_folder import CELLS, MAX_OUTPUT_VALUES, OutputFiles, Store
from guidegraph_lab.sweep.worker import Outcome
from guidegraph_runtime.files.atomic_write import atomic_path, write_bytes
from guidegraph_runtime.files.regular_files import read_json

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


TABLE = "table.csv"
PARQUET = "table.parquet"
TABLES = "tables"
FIXED = ("cell", "status", "message", "seconds")
"""The columns that every table has."""
MOST = 100
"""The most numbers of one output that are columns of the table of cells."""


@dataclass(frozen=True)
class Row:
    """A cell that ended, with its outputs."""

    cell: Cell
    outcome: Outcome
    outputs: Outputs

    def begin(self) -> dict[str, CellValue]:
        """The first columns: the key and the swept parameters."""
        return {"cell": self.cell.key, **{column_name(n): v for n, v in to_cell_values(self.cell.swept).items()}}

    def pictures(self) -> dict[str, list[str]]:
        """The pictures of each output, as paths in the sweep's folder."""
        return {n: [f"{CELLS}/{self.cell.key}/{f}" for f in files] for n, files in self.outputs.pictures.items()}


def column_name(parameter: str) -> str:
    """The column of a swept parameter: its name, unless the table has another column of that name."""
    return f"param.{parameter}" if parameter in FIXED else parameter


def to_cell_values(swept: Mapping[str, Any]) -> dict[str, CellValue]:
    """Parameters as cells of a table; a list or a dictionary as JSON."""
    portable_values = {name: portable_value(value) for name, value in swept.items()}
    return {name: json.dumps(v) if isinstance(v, (list, dict)) else v for name, v in portable_values.items()}


def read_rows(store: Store, cells: Sequence[Cell]) -> list[Row | None]:
    """Each cell that ended, in the order of the grid; None for those that did not run."""
    rows: list[Row | None] = []
    for cell in cells:
        ended = store.read_cell(cell.key)
        outputs = Outputs() if ended is None else cell_outputs(store.cell(cell.key), ended.outputs)
        rows.append(None if ended is None else Row(cell, ended.outcome, outputs))
    return rows


def write_tables(folder: Path, swept: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the table of the cells, and one of each output that is a table of several rows. Each is written atomically.

    swept: the parameters that are swept, which are columns even where no cell ended.
    """
    long = {name for row in rows for name, table in row.outputs.tables.items() if table.rows != 1}
    records = [_record(row, long) for row in rows]
    columns = list(dict.fromkeys(["cell", *map(column_name, swept), *FIXED[1:], *_columns(records)]))
    _write_csv(folder / TABLE, records, columns)
    _write_parquet(folder / PARQUET, records, columns)
    for stale in (folder / TABLES).glob("*.csv"):
        if stale.stem not in long:
            stale.unlink()
    for name in sorted(long):
        long_records = _long_records(rows, name)
        _write_csv(folder / TABLES / f"{name}.csv", long_records, _columns(long_records))


def _write_csv(path: Path, records: Sequence[Mapping[str, CellValue]], columns: Sequence[str]) -> None:
    """A byte of a file's name that is not UTF-8 becomes ``\\udcXX``."""
    write_bytes(path, as_csv(records, columns).encode("utf-8", "backslashreplace"))


def _record(row: Row, long: set[str]) -> dict[str, CellValue]:
    """One row of the table, by column. An output with the name of another column becomes ``output.NAME``."""
    outcome = row.outcome
    record = row.begin() | {"status": outcome.status, "message": outcome.message, "seconds": outcome.seconds}
    values: dict[str, CellValue] = dict(row.outputs.scalars)
    for name, table in row.outputs.tables.items():
        if name not in long:
            values |= {f"{name}.{c}": column[0] for c, column in table.items()}
        else:
            values |= flatten_table(name, table)
    values |= {name: ";".join(paths) for name, paths in row.pictures().items()}
    return record | {f"output.{name}" if name in record else name: value for name, value in values.items()}


def flatten_table(name: str, table: Table) -> dict[str, CellValue]:
    """The numbers of a table of scores, by column ``NAME.ROW.COLUMN``; none of one with over ``MOST`` numbers.

    A row is called by the table's first column of texts that differ in all rows. A table without such a column is a
    curve, whose rows stay in a file of their own.
    """
    numeric = [c for c in table if any(map(_is_number, table[c]))]
    if table.rows * len(numeric) > MOST:
        return {}
    texts = (table[c] for c in table if c not in numeric and len(set(table[c])) == table.rows and None not in table[c])
    labels: Sequence[CellValue] = next(texts, ())
    return {
        f"{name}.{label}.{c}": table[c][i] for i, label in enumerate(labels) for c in numeric if _is_number(table[c][i])
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _long_records(rows: Sequence[Row], name: str) -> list[dict[str, CellValue]]:
    """The rows of an output's tables, those of each cell once."""
    records = []
    for row in {row.cell.key: row for row in rows}.values():
        first = row.begin()
        if (table := row.outputs.tables.get(name)) is not None:
            columns = {c: f"{name}.{c}" if c in first else c for c in table}
            records += [first | {columns[c]: value for c, value in record.items()} for record in table.records()]
    return records


def _columns(records: Sequence[Mapping[str, CellValue]]) -> list[str]:
    """The columns of records, which need not all have the same ones."""
    return list(dict.fromkeys(name for record in records for name in record))


def as_csv(records: Sequence[Mapping[str, CellValue]], columns: Sequence[str]) -> str:
    """Records as CSV with a header line; a missing value is an empty field."""
    lines = []
    for fields in (columns, *([_field(record.get(name)) for name in columns] for record in records)):
        text = io.StringIO()
        csv.writer(text).writerow(fields)  # with its own line end, so that a field with a carriage return is quoted
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _field(value: CellValue) -> Any:
    return json.dumps(value) if isinstance(value, bool) else value


def _write_parquet(path: Path, records: Sequence[Mapping[str, CellValue]], columns: Sequence[str]) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)  # an earlier file does not have these cells
        return
    import pyarrow
    import pyarrow.parquet

    values = {name: pyarrow.array(_unify_types([r.get(name) for r in records])) for name in columns}
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(values), temporary)


def _unify_types(values: Sequence[CellValue]) -> list[CellValue]:
    """A column for Parquet, which needs one type: integers among floats become floats, other mixtures texts."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    wide = types == {int} and any(not -(2**63) <= value < 2**63 for value in values if isinstance(value, int))
    if len(types) > 1 or wide:
        return [None if value is None else str(_field(value)) for value in values]
    return list(values)

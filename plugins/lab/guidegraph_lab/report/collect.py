"""Read the results in a folder: a run, a sweep, or several of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidegraph.graph.run_config import ACCELERATORS
from guidegraph.nodes.table import Table
from guidegraph_lab.report.read import (
    Unreadable,
    as_table,
    get_object,
    read_csv,
    read_json,
    read_object,
    resolve_inside,
    result_error,
)
from guidegraph_lab.report.series import format_level
from guidegraph_lab.sweep.table import column_name
from guidegraph_runtime.run_json import RECORD

SWEEP, CELLS, TABLE, TABLES = "sweep.json", "cells", "table.csv", "tables"
EQUALS = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
STATUS, SECONDS = "status", "seconds"
"""Columns of the table: a sweep's parameters come before the first, its outputs after the second."""


@dataclass(frozen=True)
class Picture:
    """A picture's file, its output, its index in the batch, and the swept parameters of its cell."""

    file: Path
    output: str
    index: int = 0
    cell: str = ""
    row: int = 0

    @property
    def caption(self) -> str:
        return self.cell or self.output


@dataclass(frozen=True)
class OutputFile:
    """A file of an output, with the name of the output's type. title: the output, and the parameters of a cell."""

    file: Path
    type: str
    title: str


@dataclass
class RunFolder:
    """One run: its record, and its outputs by their names."""

    folder: Path
    record: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    output_files: list[OutputFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(get_object(self.record, "workflow").get("name") or self.folder.resolve().name)

    @property
    def columns(self) -> list[str]:
        """The names that a curve may be over, or its lines be distinguished by."""
        return list(dict.fromkeys(name for table in self.tables.values() for name in table))

    @property
    def status(self) -> str:
        return str(self.record.get("status", "unknown"))


def accelerator_of(record: dict[str, Any]) -> str:
    """The name of the program that the parts of loops ran in, from the record of a run or sweep; empty for torch."""
    setting = record.get("accelerate")
    return ACCELERATORS.get(setting, setting) if isinstance(setting, str) else ""


@dataclass
class SweepFolder:
    """A sweep: its description, a row per cell, the tables of all cells, and the records of those that ran."""

    folder: Path
    plan: dict[str, Any]
    cells: Table
    swept: list[str]
    outputs: list[str]
    records: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    output_files: list[OutputFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        recorded = get_object(self.records[0], "workflow").get("name") if self.records else None
        return str(recorded or get_object(self.plan, "workflow").get("name") or self.folder.resolve().name)

    @property
    def parameters_from_table(self) -> list[str]:
        """The columns of the parameters that vary together, in the rows of a table."""
        names = get_object(self.plan, "from").get("columns")
        return [column_name(str(name)) for name in names] if isinstance(names, list) else []

    @property
    def columns(self) -> list[str]:
        """The names that a curve may be over, or its lines be distinguished by."""
        return list(dict.fromkeys([*self.swept, *self.outputs, *(n for t in self.tables.values() for n in t)]))

    def with_status(self, status: str) -> list[int]:
        """The rows with this status."""
        return [i for i, value in enumerate(self.cells[STATUS]) if value == status]


def collect(folder: Path) -> tuple[list[RunFolder | SweepFolder], list[str]]:
    """The run or sweep in a folder, or those in its subfolders, and notes on those left out.

    Raises ``WorkflowError`` for a folder without any, and for one whose own record cannot be read.
    """
    if not folder.is_dir():
        raise result_error(folder, "nothing-to-report", "there is no such folder: give one that 'guidegraph run' wrote")
    try:
        if result := _read_result(folder):
            return [result], []
    except Unreadable as error:
        name = SWEEP if (folder / SWEEP).exists() else RECORD
        raise result_error(folder, "bad-record", f"{name} or a file that it needs {error}; run it again") from None
    results: list[RunFolder | SweepFolder] = []
    notes: list[str] = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            if result := _read_result(inner):
                results.append(result)
        except Unreadable as error:
            notes.append(f"{inner.name} is left out: its record {error}.")
    if not results:
        reasons = f" ({' '.join(notes)})" if notes else ""
        message = f"neither this folder nor one in it has a {RECORD} or {SWEEP} that can be read{reasons}"
        raise result_error(folder, "nothing-to-report", message)
    return results, notes


def _read_result(folder: Path) -> RunFolder | SweepFolder | None:
    if (folder / SWEEP).exists():
        return _read_sweep(folder)
    return _read_run(folder) if (folder / RECORD).exists() else None


def _read_run(folder: Path) -> RunFolder:
    record = read_object(folder / RECORD)
    if not isinstance(record.get("workflow"), dict) or not isinstance(record.get("parameters"), dict):
        raise Unreadable("is not the record of a run: 'workflow' and 'parameters' are missing")
    run = RunFolder(folder, record)
    for name, output in get_object(record, "outputs").items():
        files = output.get("files") if isinstance(output, dict) else None
        file_names = [str(file) for file in files] if isinstance(files, list) else []
        pictures = [file for file in file_names if file.lower().endswith(".png")]
        for i, file in enumerate(pictures):
            try:
                run.pictures.append(
                    Picture(resolve_inside(folder, file), name if len(pictures) == 1 else f"{name} {i}", i)
                )
            except Unreadable as error:
                run.notes.append(f"The picture {file} {error}.")
        for file in file_names:
            try:
                path = resolve_inside(folder, file)
            except Unreadable:
                path = None
            if path is not None:
                title = name if len(file_names) == 1 else file
                run.output_files.append(OutputFile(path, str(get_object({"": output}, "").get("type", "")), title))
            if file.endswith(".safetensors"):
                run.other_files.append(file)
            if not file.endswith(".json"):
                continue
            try:
                value = read_json(resolve_inside(folder, file))
            except Unreadable as error:
                run.notes.append(f"The output {file} {error}.")
                continue
            if (table := as_table(value)) is not None:
                run.tables[name] = table
            else:
                run.values.update(flatten(name, value))
    return run


def flatten(name: str, value: Any) -> dict[str, Any]:
    """Flatten nested objects: values under dotted names."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    values: dict[str, Any] = {}
    for key, inner in value.items():
        values.update({f"{name}.{key}": inner} if isinstance(inner, dict) else flatten(f"{name}.{key}", inner))
    return values


def _read_sweep(folder: Path) -> SweepFolder:
    plan = read_object(folder / SWEEP)
    texts = _text_columns(plan)
    try:
        rows = read_csv(resolve_inside(folder, TABLE), texts | {"message"})
    except Unreadable as error:
        when = "" if (folder / TABLE).exists() else " (a sweep writes it every minute, and at its end)"
        raise Unreadable(f"cannot be used: {TABLE} {error}{when}") from None
    names = list(rows)
    if names[:1] != ["cell"] or STATUS not in names:
        raise Unreadable(f"cannot be used: the columns of {TABLE} are 'cell', the parameters, '{STATUS}' and outputs")
    first = {key: i for i, key in reversed([*enumerate(rows["cell"])])}
    kept = sorted(first.values())  # equal rows of ``--from`` are one cell
    cells = Table({name: [column[i] for i in kept] for name, column in rows.items()})
    swept = names[1 : names.index(STATUS)]
    after = names.index(SECONDS) if SECONDS in names else names.index(STATUS)
    outputs = [n for n in names[after + 1 :] if not any(isinstance(v, str) and ".png" in v.lower() for v in cells[n])]
    sweep = SweepFolder(folder, plan, cells, swept, outputs)
    for i in range(cells.rows):
        _add_cell(sweep, i)
    for path in sorted((folder / TABLES).glob("*.csv")):
        try:
            sweep.tables[path.stem] = read_csv(resolve_inside(folder, f"{TABLES}/{path.name}"), texts)
        except Unreadable as error:
            sweep.notes.append(f"The table {path.name} {error}.")
    return sweep


def _text_columns(plan: dict[str, Any]) -> set[str]:
    """The columns of texts in the tables of a sweep: the key of the cell, and the parameters with texts as values."""
    values = {name: column for name, column in get_object(plan, "grid").items() if isinstance(column, list)}
    table = get_object(plan, "from")
    names, rows = table.get("columns"), table.get("rows")
    if isinstance(names, list) and isinstance(rows, list):
        columns = zip(*(row for row in rows if isinstance(row, list)), strict=False)
        values |= {str(name): list(column) for name, column in zip(names, columns, strict=False)}
    kept = {"cell"}
    for name, column in values.items():
        texts = {value for value in column if isinstance(value, str)}
        has_numbers = any(isinstance(value, (int, float)) for value in column)
        if texts - {"Infinity", "-Infinity"} if has_numbers else texts:  # an infinity among numbers is a text, too
            kept.add(column_name(name))
    return kept


def _add_cell(sweep: SweepFolder, i: int) -> None:
    """Add the record and the pictures of a cell that is done."""
    if sweep.cells[STATUS][i] != "done":
        return
    key = str(sweep.cells["cell"][i])
    try:
        run = _read_run(resolve_inside(sweep.folder, f"{CELLS}/{key}/{RECORD}").parent)
    except Unreadable as error:
        sweep.notes.append(f"The record of cell {key} {error}.")
        return
    sweep.records.append(run.record)
    sweep.notes += [f"Cell {key}: {text}" for text in run.notes]
    sweep.output_files += [replace(f, title=f"{f.title} · {format_point(sweep, i)}") for f in run.output_files]
    sweep.pictures += [replace(p, cell=format_point(sweep, i), row=i) for p in run.pictures]


def format_point(sweep: SweepFolder, i: int) -> str:
    """The swept parameters of a row, as text."""
    return ", ".join(f"{name}{EQUALS}{format_level(sweep.cells[name][i])}" for name in sweep.swept)

"""The table and the contact sheet of a sweep, and the values that cells share."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from guidegraph import load_workflow
from guidegraph_lab.sweep.contact_sheet import layout
from guidegraph_lab.sweep.grid import Axis, Grid
from guidegraph_lab.sweep.table import as_csv
from guidegraph_lab.sweep.worker import KEPT_FOR, SharedValues, shareable_digests
from plugins.lab.tests.sweep.test_sweep import sweep, table
from tests.commands.command import ROOT, Command

TEXT_TO_IMAGE = ROOT / "workflows" / "text_to_image.yaml"

OUTPUTS = """
guidegraph: 1
params: {seed: 0, rows: {default: [1.0], type: list}, batch: 1, value: 1.0}
nodes:
  one: {use: toy.number, in: {value: params.value}}
  short: {use: table.columns, in: {values: [one]}, with: {names: [score], constants: {kind: fid}}}
  vector: {use: toy.tensor, in: {values: params.rows}}
  long: {use: table.columns, in: {values: [vector]}, with: {names: [seed]}}
  element: {use: toy.tensor, with: {values: [2.5]}}
  dict: {use: toy.table}
  image: {use: toy.picture, in: {seed: params.seed, batch: params.batch}}
outputs: {one: one, short: short, long: long, vector: vector, element: element, dict: dict, status: one, image: image}
"""


def test_outputs_become_columns(cli: Command) -> None:
    workflow = cli.workflow("w.yaml", OUTPUTS)
    assert sweep(cli, workflow, "--grid", "rows=[1],[2, 3]", "--seeds", "0:2", "--set", "batch=2").code == 0
    rows = table()
    assert list(rows[0]) == [
        *(
            "cell",
            "rows",
            "seed",
            "status",
            "message",
            "seconds",
            "one",
            "vector",
            "element",
            "dict.prompt",
            "dict.sizes",
        ),
        *("output.status", "short.kind", "short.score", "image", "vector.0", "vector.1"),
    ]
    assert (rows[0]["short.kind"], rows[0]["short.score"], rows[0]["element"]) == ("fid", "1.0", "2.5")
    assert (rows[0]["status"], rows[0]["output.status"], rows[0]["rows"]) == ("done", "1.0", "[1]")
    assert [Path("out", name).exists() for name in rows[0]["image"].split(";")] == [True, True]
    with Path("out/tables/long.csv").open(newline="") as file:
        long = list(csv.DictReader(file))
    assert [(row["rows"], row["seed"], row["long.seed"]) for row in long] == [
        *(("[1]", "0", "1.0"), ("[1]", "1", "1.0")),
        *(("[2, 3]", "0", "2.0"), ("[2, 3]", "0", "3.0"), ("[2, 3]", "1", "2.0"), ("[2, 3]", "1", "3.0")),
    ]
    assert sweep(cli, workflow, "--seeds", "0:2", "--set", "batch=2").code == 0
    assert "long.seed" in table()[0]
    assert not Path("out/tables/long.csv").exists()


def test_every_number_of_the_outputs_is_a_column(cli: Command) -> None:
    text = """
guidegraph: 1
params: {scale: 1.0, other: 1.0}
nodes:
  x: {use: toy.number, in: {value: params.scale}}
  y: {use: toy.number, in: {value: params.other}}
  a: {use: table.columns, in: {values: [x]}, with: {names: [score], constants: {task: colours}}}
  b: {use: table.columns, in: {values: [y]}, with: {names: [score], constants: {task: counting}}}
  scores: {use: table.stack, in: {tables: [a, b]}}
outputs: {scores: scores}
"""
    workflow = cli.workflow("w.yaml", text)
    assert sweep(cli, workflow, "--grid", "scale=1,2", "--grid", "other=3,4").code == 0
    columns = ("scores.colours.score", "scores.counting.score")
    assert [[row[name] for name in columns] for row in table()] == [
        ["1.0", "3.0"],
        ["1.0", "4.0"],
        ["2.0", "3.0"],
        ["2.0", "4.0"],
    ]


def test_equal_rows_share_one_table(cli: Command) -> None:
    Path("rows.csv").write_text('rows\n"[2, 3]"\n"[2, 3]"\n')
    assert sweep(cli, cli.workflow("w.yaml", OUTPUTS), "--from", "rows.csv").code == 0
    assert len(table()) == 2
    with Path("out/tables/long.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["2.0", "3.0"]


def test_special_floats_are_numbers_in_the_table(cli: Command) -> None:
    text = "guidegraph: 1\nparams: {v: 1.0}\nnodes:\n  n: {use: toy.number, in: {value: params.v}}\n"
    workflow = cli.workflow("w.yaml", text + "  sum: {use: toy.add, in: {a: n, b: n}}\noutputs: {sum: sum}\n")
    assert sweep(cli, workflow, "--grid", "v=1e308,-1e308").code == 0
    assert [row["sum"] for row in table()] == ["inf", "-inf"]
    assert not Path("out/sheet.png").exists()


def test_parquet_equals_the_csv(cli: Command) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra: the table is CSV without it")
    assert sweep(cli, cli.workflow("w.yaml", OUTPUTS), "--seeds", "0:3").code == 0
    records = parquet.read_table("out/table.parquet").to_pylist()
    assert as_csv(records, list(records[0])) == Path("out/table.csv").read_text()
    assert [row["seed"] for row in records] == [0, 1, 2]


def test_without_pyarrow_a_stale_parquet_is_removed(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = cli.workflow("w.yaml", OUTPUTS)
    Path("out").mkdir()
    Path("out/table.parquet").write_text("stale")
    monkeypatch.setattr("guidegraph_lab.sweep.table.importlib.util.find_spec", lambda name: None)
    assert sweep(cli, workflow, "--seeds", "0:1").code == 0
    assert not Path("out/table.parquet").exists()


def test_the_sheet_lays_out_the_pictures_by_the_grid(cli: Command) -> None:
    workflow = cli.workflow("w.yaml", OUTPUTS)
    assert sweep(cli, workflow, "--grid", "batch=1,2", "--seeds", "0:3").code == 0
    colours = []
    with Image.open("out/sheet.png") as sheet:
        for row in (0, 1):
            y = sheet.height - (2 - row) * 68 + 32
            colours.append([sheet.getpixel((sheet.width - (3 - i) * 68 + 32, y)) for i in range(3)])
    assert colours == [[(37 * i,) * 3 for i in range(3)]] * 2


def test_the_table_is_written_despite_a_damaged_picture(cli: Command) -> None:
    workflow = cli.workflow("w.yaml", OUTPUTS)
    assert sweep(cli, workflow, "--seeds", "0:3").code == 0
    first, *_ = table()
    (Path("out") / first["image"]).write_bytes(b"\x89PNG\r\n\x1a\n")
    assert sweep(cli, workflow, "--seeds", "0:4").code == 0
    assert len(table()) == 4
    assert as_csv([{"a": "b\rc", "d": 1}], ["a", "d"]) == 'a,d\n"b\rc",1\n'


def test_layout() -> None:
    def grid(*sizes: int) -> Grid:
        return Grid(tuple(Axis("--grid", (f"p{i}",), tuple((v,) for v in range(n))) for i, n in enumerate(sizes)), {})

    def size(*sizes: int) -> tuple[int, int, int]:
        grid_layout = layout(grid(*sizes), list(grid(*sizes).points()))
        return len(grid_layout.cells), len(grid_layout.cells[0]), grid_layout.left_out

    assert size(3, 4) == (3, 4, 0)
    assert size(2, 3, 4) == (6, 4, 0)
    assert size(5) == (2, 3, 0)
    assert size(3, 4, 1) == (3, 4, 0)
    assert size(1) == (1, 1, 0)
    assert size(100, 64) == (15, 20, 100 * 64 - 300)
    assert size(1000) == (17, 18, 700)
    grid_layout = layout(grid(2, 3), list(grid(2, 3).points()))
    assert (grid_layout.rows, grid_layout.columns) == (["p0=0", "p0=1"], ["p1=0", "p1=1", "p1=2"])
    assert grid_layout.cells == [[0, 1, 2], [3, 4, 5]]


def test_a_model_is_loaded_once_and_the_pictures_equal_those_of_run(cli: Command) -> None:
    assert sweep(cli, TEXT_TO_IMAGE, "--grid", "scale=1,3", "--seeds", "0:3", "--set", "steps=2").code == 0
    records = [json.loads((Path("out/cells") / row["cell"] / "run.json").read_text()) for row in table()]
    assert [record["origins"]["nodes.model"] for record in records] == ["computed"] + ["memory"] * 5
    assert (
        cli("run", TEXT_TO_IMAGE, "--out", "one", "--set", "steps=2", "--set", "scale=3", "--set", "seed=2").code == 0
    )
    last = Path("out") / table()[-1]["image"]
    assert last.read_bytes() == Path("one/image.png").read_bytes()


def test_batchable_calls_are_not_shared() -> None:
    workflow = load_workflow(TEXT_TO_IMAGE)
    plan = workflow.plan({"steps": 2})
    shared = shareable_digests(plan)
    assert {key for key in plan.ops if plan.digests[key] in shared} == set(plan.ops) - {"image"}
    batchable = {key for key, op in plan.ops.items() if getattr(getattr(op, "spec", None), "batchable", ())}
    assert batchable == {"image"}


def test_values_that_no_cell_needs_are_dropped() -> None:
    workflow = load_workflow(TEXT_TO_IMAGE)
    first, other = workflow.plan({"seed": 0}), workflow.plan({"seed": 1})
    memory = SharedValues(1 << 20)
    memory.begin(first)
    memory.put(first.digests["noise"], (1,))
    memory.put(first.digests["image"], (1,))
    assert memory.get(first.digests["noise"]) == (1,)
    assert memory.get(first.digests["image"]) is None
    for _ in range(KEPT_FOR):
        memory.begin(other)
    assert memory.get(first.digests["noise"]) is None  # not needed by this cell
    memory.begin(first)
    assert memory.get(first.digests["noise"]) is None  # and dropped by now
    assert memory.size == 0

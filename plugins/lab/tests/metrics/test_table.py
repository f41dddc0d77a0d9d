"""Tables: made in workflows, joined, printed as Markdown, written as JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling import scheduler_step
from guidegraph.nodes.sampling.schedule import schedule_table
from guidegraph.nodes.table import Table
from guidegraph_lab.metrics.table import columns, join, select, stack

SWEEP = """
guidegraph: 1
params:
  scales: {default: [0.5, 2.0, 4.0], help: "of the noise"}
nodes:
  noise: {use: noise.gaussian, with: {shape: [1, 2, 2], batch: 3, seed: 4}}
  sweep:
    loop: {over: params.scales, as: scale}
    body:
      inner:
        loop: {over: params.scales, as: other}
        body:
          guided: {use: metric.mean, in: {values: noise}}
          line: {use: table.columns, in: {values: [loop.other, guided.value]}, with: {names: [other, mean]}}
        collect: {lines: line}
      row:
        use: table.columns
        in: {values: [loop.scale, loop.index]}
        with: {names: [scale, index], constants: {method: "a|b"}}
      lines: {use: table.stack, in: {tables: inner.lines}}
    collect: {rows: row, lines: lines}
  table: {use: table.stack, in: {tables: sweep.rows}}
  every: {use: table.stack, in: {tables: sweep.lines}}
outputs: {table: table, lines: every}
"""


def test_rows_of_single_values_and_columns_of_lists() -> None:
    single_row = columns([2.0, torch.tensor([3]), "word"], names=["a", "b", "c"], constants={"m": "CFG"})
    assert single_row.records() == [{"m": "CFG", "a": 2.0, "b": 3, "c": "word"}]
    several = columns([[1, 2], torch.tensor([0.5, 1.5]), 7], names=["a", "b", "c"])
    assert dict(several) == {"a": (1, 2), "b": (0.5, 1.5), "c": (7, 7)}
    collected = columns([torch.tensor([[999.0], [500.0]]), [torch.tensor(1.0), torch.tensor(2.0)]], names=["t", "x"])
    assert dict(collected) == {"t": (999.0, 500.0), "x": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([1, 2], ["a"], "2 values need as many names"),
        ([1, 2], ["a", "a"], "names of columns differ"),
        ([[1, 2], [1, 2, 3]], ["a", "b"], r"one length; found \{'a': 2, 'b': 3\}"),
        ([torch.zeros(2, 3)], ["a"], "column 'a' takes numbers or texts"),
        ([object()], ["a"], "column 'a' takes numbers or texts"),
    ],
)
def test_invalid_columns_are_refused(values: Any, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        columns(values, names=names)


def test_stacked_tables_have_the_columns_of_all() -> None:
    stacked = stack([Table({"a": [1], "b": [2]}), Table({"a": [3, 4], "c": ["x", "y"]})])
    assert dict(stacked) == {"a": (1, 3, 4), "b": (2, None, None), "c": (None, "x", "y")}


def test_stacked_tables_may_be_named() -> None:
    tables = [Table({"a": [1, 2]}), Table({"a": [3]})]
    stacked = stack(tables, by="kind", names=["x", "y"])
    assert list(stacked.items()) == [("kind", ("x", "x", "y")), ("a", (1, 2, 3))]
    with pytest.raises(ValueError, match="2 tables need as many names"):
        stack(tables, by="kind", names=["x"])
    with pytest.raises(ValueError, match="'by' is the name of a new column"):
        stack(tables, by="a", names=["x", "y"])


def test_join_matches_rows_by_a_column() -> None:
    left, right = Table({"k": [1, 2, 3], "a": [10, 20, 30]}), Table({"k": [3, 1], "b": ["three", "one"]})
    assert dict(join(left, right, on="k")) == {"k": (1, 2, 3), "a": (10, 20, 30), "b": ("one", None, "three")}
    with pytest.raises(ValueError, match="has a value twice"):
        join(left, Table({"k": [1, 1]}), on="k")
    with pytest.raises(ValueError, match="both tables have the columns a"):
        join(left, left, on="k")
    with pytest.raises(ValueError, match="no column 'q'"):
        join(left, right, on="q")


def test_select_uses_the_order_of_names() -> None:
    table = Table({"alpha": [1], "beta": [2]})
    assert list(select(table, names=["beta", "alpha"])) == ["beta", "alpha"]
    with pytest.raises(ValueError, match="did you mean 'beta'"):
        select(table, names=["betta"])


def test_markdown_aligns_numbers_and_keeps_words_in_one_cell() -> None:
    table = Table({"method": ["a|b", "c\nd"], "share": [0.123456789, None], "count": [5, 10]})
    assert table.markdown().split("\n") == [
        "| method |   share | count |",
        "| ------ | ------: | ----: |",
        "| a\\|b   | 0.12346 |     5 |",
        "| c d    |         |    10 |",
    ]
    assert table.markdown(1).split("\n")[2:] == ["| a\\|b   | 0.12346 |     5 |", "… 1 more rows"]


def test_integers_larger_than_any_float_are_infinite_numbers() -> None:
    assert Table({"count": [10**400, -(10**400), 2]}).numbers("count") == [math.inf, -math.inf, 2.0]


def test_a_schedules_table_is_its_alphas() -> None:
    table = schedule_table(schedules.cosine())
    assert table.rows == 1000
    assert table.numbers("beta")[0] == pytest.approx(4.12842e-5, rel=1e-5)
    for row in table.records()[::250]:
        alpha, sigma = row["alpha"], row["sigma"]
        assert isinstance(alpha, float)
        assert isinstance(sigma, float)
        assert alpha**2 + sigma**2 == pytest.approx(1)
        assert row["log_snr"] == pytest.approx(2 * math.log(alpha / sigma), abs=1e-9)


def test_the_table_of_a_sampler_that_starts_without_signal_has_an_infinite_ratio() -> None:
    schedule = schedules.zero_terminal_snr(schedules.linear())
    table = scheduler_step.table(samplers.ddim(schedule, steps=3, spacing="trailing").scheduler)
    assert table["sigma/alpha"][0] == math.inf
    assert "inf" in table.markdown()


def test_loops_of_loops_collect_rows(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    workflow = load_workflow(path)
    outputs = workflow.run()
    assert dict(outputs["table"]) == {"method": ("a|b",) * 3, "scale": (0.5, 2.0, 4.0), "index": (0, 1, 2)}
    assert outputs["lines"]["other"] == (0.5, 2.0, 4.0) * 3
    assert workflow.run(scales=[1.0])["table"].rows == 1


def test_run_prints_a_table_and_writes_it_as_json_and_markdown(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "guidegraph", "run", "sweep.yaml", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    table = Table(json.loads((tmp_path / "out" / "table.json").read_text()))
    assert table["scale"] == (0.5, 2.0, 4.0)
    assert (tmp_path / "out" / "table.md").read_text() == table.markdown() + "\n"
    assert f"table\n\n{table.markdown()}\n" in done.stdout
    assert done.stdout.endswith("wrote table.json, table.md, lines.json, lines.md in out\n")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outputs"]["table"] == {"type": "Table", "files": ["table.json", "table.md"]}

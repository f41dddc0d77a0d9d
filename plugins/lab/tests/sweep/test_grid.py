"""The arguments of ``guidegraph sweep``: parsing of values, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph.graph.errors import Problem
from guidegraph_lab.sweep.grid_options import parse_grid, parse_seeds, split_values
from guidegraph_runtime.machine.optional_packages import install_command
from tests.commands.command import Command

WORKFLOW = """
guidegraph: 1
params: {seed: 0, batch: 1, need: {type: float}, prompt: "a tiger", sizes: {default: [1], type: list | None}}
nodes:
  image: {use: toy.picture, in: {seed: params.seed, batch: params.batch, shade: params.need}}
  table: {use: toy.table, in: {prompt: params.prompt, sizes: params.sizes}}
outputs: {image: image, table: table}
"""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2,4", ["1", "2", "4"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ('"a cat, red",a dog', ['"a cat, red"', "a dog"]),
        ("the tiger's,it's", ["the tiger's", "it's"]),
        ("{a: [1, 2], b: 3},x", ["{a: [1, 2], b: 3}", "x"]),
        ('["a, ]", b],c', ['["a, ]", b]', "c"]),
        ("1,", ["1", ""]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_and_quotes(text: str, parts: list[str]) -> None:
    assert split_values(text) == parts


def test_a_quoted_value_loses_its_quotes() -> None:
    texts = parse_grid("prompt='a, b',c", [])
    assert texts is not None
    assert texts.rows == (("a, b",), ("c",))


def test_only_quotes_around_a_whole_value_are_removed() -> None:
    texts = parse_grid("prompt='a' or 'b',\"c\"", [])
    assert texts is not None
    assert texts.rows == (("'a' or 'b'",), ("c",))


@pytest.mark.parametrize("text", ["prompt='tis cold,a dog", "sizes=[1, 2,3", 'prompt="a, b'])
def test_an_unclosed_quote_or_bracket_does_not_swallow_the_next_value(text: str) -> None:
    problems: list[Problem] = []
    assert parse_grid(text, problems) is None
    assert [problem.code for problem in problems] == ["bad-grid"]
    assert "is not closed" in problems[0].message


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0:3", ["0", "1", "2"]), ("7", ["7"]), ("1, 5,10:12", ["1", "5", "10", "11"])],
)
def test_seeds(text: str, seeds: list[str]) -> None:
    texts = parse_seeds(text, [])
    assert texts is not None
    assert [row[0] for row in texts.rows] == seeds


@pytest.mark.parametrize("text", ["", "a", "3:3", "5:1", "-1:4", "0:4:2", "0:99999999", "0:900000,0:900000", "1,,2"])
def test_invalid_seeds(text: str) -> None:
    problems: list[Problem] = []
    assert parse_seeds(text, problems) is None
    assert [problem.code for problem in problems] == ["bad-seeds"]


def test_all_problems_are_reported_together_and_nothing_runs(cli: Command) -> None:
    workflow = cli.workflow("w.yaml", WORKFLOW)
    Path("rows.csv").write_text("batch\n2\nmany\n0\n")
    result = cli(
        "sweep",
        workflow,
        *("--grid", "scal=1,2", "--grid", "sizes=1", "--grid", "nothing"),
        *("--seeds", "3:1", "--from", "rows.csv", "--set", "batch=3", "--set", "prompt"),
        *("--dtype", "float31", "--workers", "2", "--out", "out"),
    )
    assert result.code == 2
    lines = result.err.splitlines()
    expected = [
        "--dtype: unknown-dtype: ",
        "rows.csv:1:1: swept-twice: 'batch' has its values from --set and from --from",
        "--grid: bad-grid: 'nothing' is not NAME=VALUE,VALUE,…",
        "--grid: bad-value: 'sizes': ",
        "--grid: unknown-param: no parameter 'scal'; ",
        "--seeds: bad-seeds: '3:1' is not a list of seeds",
        "--set: bad-setting: 'prompt' is not K=V",
        "--workers: bad-workers: ",
        "rows.csv:3:1: bad-value: 'batch': ",
        "rows.csv:4:1: bad-value: 'batch': ",
        "missing-param: 'need' (float) has no default",
    ]
    missing = [text for text in expected if not any(text in line for line in lines)]
    assert missing == []
    assert len(lines) == len(expected)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--grid: bad-grid: there is nothing to sweep"),
        (["--grid", "need=1,1.0"], "--grid: bad-grid: 'need' has the value 1.0 twice"),
        (["--grid", "sizes=null,[1],null", "--set", "need=1"], "--grid: bad-grid: 'sizes' has the value null twice"),
        (["--grid", "need=1", "--grid", "need=2"], "swept-twice: 'need' has its values from --grid and from --grid"),
        (["--grid", "seed=1", "--seeds", "0:2", "--set", "need=1"], "--seeds: swept-twice: 'seed'"),
        (["--grid", "need="], "--grid: bad-grid: 'need=' is not"),
        (
            ["--grid", "need=1", "--seeds", "0:2000", "--grid", "batch=" + ",".join(map(str, range(1, 600)))],
            "cells; at most",
        ),
        (["--grid", "need=1", "--ray", "local", "--device", "cuda:1"], "--device: no-device: with --ray it is 'cuda'"),
    ],
)
def test_grids_that_are_refused(cli: Command, arguments: list[str], message: str) -> None:
    result = cli("sweep", cli.workflow("w.yaml", WORKFLOW), *arguments)
    assert result.code == 2
    assert message in result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "rows.csv:1:1: bad-table: cannot be read as CSV in UTF-8: No such file or directory"),
        ("need\n", "rows.csv:1:1: bad-table: a line with names of parameters is expected"),
        ("need,need\n1,2\n", "rows.csv:1:1: bad-table: the first line names a parameter for each column, each once"),
        ("need,seed\n1,2\n1\n", "rows.csv:3:1: bad-table: 2 values are expected, one for each column; found 1"),
        ('need\n"1\n', "bad-table: cannot be read as CSV"),
        ("need,caption\n1,a\n", "rows.csv:1:1: unknown-param: no parameter 'caption'"),
    ],
)
def test_tables_that_are_refused(cli: Command, text: str | None, message: str) -> None:
    if text is not None:
        Path("rows.csv").write_text(text)
    result = cli("sweep", cli.workflow("w.yaml", WORKFLOW), "--from", "rows.csv")
    assert result.code == 2
    assert message in result.err


def test_without_ray_the_error_says_how_to_install_it(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = cli("sweep", cli.workflow("w.yaml", WORKFLOW), "--grid", "need=1", "--ray", "local", "--out", "out")
    assert result.code == 2
    assert (
        f"--ray: missing-extra: --ray needs ray, which is not installed; {install_command('ray', 'guidegraph-lab')}"
        in result.err
    )
    assert not Path("out").exists()


def test_a_shipped_table_is_named_like_a_shipped_workflow(cli: Command) -> None:
    arguments = ("sweep", "pkg:experiments/sampling.yaml", "--from")
    twice = cli(*arguments, "pkg:experiments/sampling.csv", "--set", "f=3")
    assert twice.code == 2
    assert "sampling.csv:1:1: swept-twice: 'f' has its values from --set and from --from" in twice.err
    absent = cli(*arguments, "pkg:experiments/absent.csv")
    assert absent.code == 2
    assert "pkg:experiments/absent.csv:1:1: no-file: this package has no file" in absent.err

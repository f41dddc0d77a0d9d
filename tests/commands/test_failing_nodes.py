"""Any exception of a node gives one message that names the node, without a traceback or another exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidegraph.graph.errors import NodeError
from guidegraph.graph.events import NodeStarted
from guidegraph.runs.observers import PlainLog
from guidegraph_runtime.error_text import list_causes
from tests.commands.command import Command
from tests.commands.failing_nodes import make_circular_causes

NODES = str(Path(__file__).with_name("failing_nodes.py"))
FAIL = """
guidegraph: 1
params: {how: {type: str}}
nodes:
  one: {use: toy.number}
  bad: {use: failing.fail, in: {x: one, how: params.how}}
outputs: {bad: bad}
"""
ROWS = """
guidegraph: 1
params: {how: {type: str}}
nodes:
  data: {use: failing.rows, in: {how: params.how}}
  start: {use: toy.number}
  sum:
    loop: {over: data, as: row}
    carry: {x: start}
    body:
      add: {use: toy.add, in: {a: carry.x, b: loop.row}}
    next: {x: add}
outputs: {x: sum.x}
"""
PLAIN = "guidegraph: 1\nnodes: {one: {use: toy.number}}\noutputs: {one: one}\n"
MESSAGES = {
    "no text": "NoText: (its text cannot be shown: its __str__ raised RuntimeError)",
    "own": "Own: mine",
    "exit": "SystemExit: 0",
    "generator exit": "GeneratorExit",
    "interrupt": "KeyboardInterrupt",
    "lines": "ValueError: the first line, the second",
    "huge": f"ValueError: {'x' * 4000}… (10000000 characters)",
    "memory": "there is not enough memory: 22.2 TB were asked for, ",
    "torch": "there is not enough memory: 10.8 TB were asked for, ",
}


@pytest.mark.parametrize("how", ["no text", "own", "generator exit", "interrupt", "lines", "huge", "memory", "torch"])
def test_a_node_may_raise_anything(cli: Command, how: str) -> None:
    workflow = cli.workflow("fail.yaml", FAIL)
    result = cli("run", workflow, "--plugin", NODES, "--set", f"how={how}", "--out", "out")
    assert result.code == 1
    assert result.err.startswith(f"{workflow}:6:3: node-failed: nodes.bad (failing.fail): {MESSAGES[how]}")
    assert result.err.count("\n") == 1
    assert json.loads(Path("out/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("how", ["no text", "own", "exit", "interrupt", "memory"])
def test_the_data_of_a_loop_may_raise_anything(cli: Command, how: str) -> None:
    workflow = cli.workflow("rows.yaml", ROWS)
    result = cli("run", workflow, "--plugin", NODES, "--set", f"how={how}", "--out", "out")
    assert result.code == 1
    assert result.err.startswith(f"{workflow}:7:3: node-failed: nodes.sum (loop): item 0 cannot be read: ")
    assert MESSAGES[how] in result.err


def test_the_data_of_a_loop_without_a_length_fails(cli: Command) -> None:
    workflow = cli.workflow("rows.yaml", ROWS)
    result = cli("run", workflow, "--plugin", NODES, "--set", "how=no length", "--out", "out")
    assert result.code == 1
    assert result.err == f"{workflow}:7:3: node-failed: nodes.sum (loop): SystemExit: 0\n"


def test_an_observer_does_not_end_the_process(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: PlainLog, event: object) -> None:
        if isinstance(event, NodeStarted):
            raise SystemExit(0)

    monkeypatch.setattr(PlainLog, "__call__", leave)
    result = cli("run", cli.workflow("plain.yaml", PLAIN), "--out", "out", "-v")
    assert (result.code, result.err) == (1, "error: code of a node or a plugin ended the run: SystemExit: 0\n")


def test_the_traceback_option_shows_the_error(cli: Command) -> None:
    workflow = cli.workflow("fail.yaml", FAIL)
    result = cli("run", workflow, "--plugin", NODES, "--set", "how=no text", "--out", "out", "--traceback")
    assert result.code == 1
    assert MESSAGES["no text"] in result.err.splitlines()[-1]


def test_a_cell_of_a_sweep_may_raise_anything(cli: Command) -> None:
    workflow = cli.workflow("fail.yaml", FAIL)
    result = cli("sweep", workflow, "--plugin", NODES, "--grid", "how=no text,own,exit,memory", "--out", "out")
    assert result.code == 1
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["failed"] * 4
    assert all(f": {MESSAGES[how]}" in result.err for how in ("no text", "own", "exit", "memory"))


def test_the_search_for_the_failing_node_ends_on_circular_causes() -> None:
    causes = list_causes(make_circular_causes())
    assert len(causes) == len({id(cause) for cause in causes})
    assert not any(isinstance(cause, NodeError) for cause in causes)

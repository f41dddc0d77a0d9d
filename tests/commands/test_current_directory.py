"""A relative --out or --cache is resolved when the run starts: a plugin cannot move it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.command import Command

WANDERER = """
import os
from guidegraph import hookimpl, node

@node("wanderer.go", pure=False)
def go(x: float = 1.0) -> float:
    "x, from elsewhere."
    os.chdir("/")
    return x

@hookimpl
def guidegraph_nodes():
    return [go]

@hookimpl
def guidegraph_observer(run):
    return lambda event: os.chdir({observes!r})
"""
WORKFLOW = """
guidegraph: 1
nodes:
  a: {use: wanderer.go}
  b: {use: toy.add, in: {a: a}}
  c: {use: toy.number}
outputs: {sum: b, number: c}
"""


def test_files_stay_put_when_a_plugin_changes_the_current_directory(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = cli.workflow("wanderer.py", WANDERER.format(observes="/usr"))
    result = cli("run", cli.workflow("w.yaml", WORKFLOW), "--out", "out", "--cache", "kept", "--plugin", plugin)
    monkeypatch.chdir(tmp_path)
    assert result.code == 0, result.err
    assert {"number.json", "run.json", "sum.json"} <= {path.name for path in Path("out").iterdir()}
    assert list(Path("kept").rglob("*.safetensors"))
    assert "nodes.a (wanderer.go) changes the current directory to /; it was put back to" in result.err

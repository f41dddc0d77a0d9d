"""``guidegraph run --memory-budget``, and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidegraph import load_workflow
from tests.commands.command import Command
from tests.graph.memory.fake_device import log

DRAW = "guidegraph: 1\nnodes: {image: {use: toy.picture}}\noutputs: {image: image}\n"

MODELS = """
guidegraph: 1
nodes:
  parts: {use: r.parts}
  x: {use: r.start}
  y: {use: r.use, in: {x: x, models: [parts.small]}}
outputs: {y: y}
"""


@pytest.mark.parametrize("size", ["6G", "lots", "-1", "0"])
def test_an_invalid_size_is_a_usage_error(cli: Command, size: str) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--memory-budget", size, "--out", "out")
    assert result.code == 2
    assert f"--memory-budget: bad-budget: '{size}' is" in result.err
    assert not Path("out").exists()


def test_a_budget_on_the_cpu_is_a_usage_error(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--memory-budget", "6GB")
    assert result.code == 2
    assert "--memory-budget: bad-budget: it limits what is on another device than the CPU" in result.err


def test_model_moves_are_logged_and_recorded(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    log.clear()
    monkeypatch.setattr("guidegraph.graph.execution.top_level.TorchMover", lambda device: log.device)
    monkeypatch.setattr("guidegraph.commands.shared.run_settings._device_problem", lambda device: "")
    arguments = ["--device", "cuda", "--memory-budget", "1kB", "--json", "--out", "out"]
    arguments += ["--plugin", "tests.graph.memory.fake_device"]
    result = cli("run", cli.workflow("models.yaml", MODELS), *arguments)
    assert (result.code, result.err) == (0, "")
    rows = [json.loads(line) for line in result.out.splitlines()]
    moves = [row for row in rows if row["event"] == "model_moved"]
    assert [(move["output"], move["device"], move["bytes"]) for move in moves] == [
        ("small", "cuda", 40),
        ("small", "cpu", 40),
    ]
    record = json.loads(Path("out/run.json").read_text())
    assert record["memory_budget"] == 1000
    assert [move["device"] for move in record["moves"]] == ["cuda", "cpu"]


def test_a_budget_in_python_is_bytes_or_text(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("guidegraph: 1\nnodes: {n: {use: noise.gaussian, with: {shape: [1]}}}\noutputs: {n: n}\n")
    assert load_workflow(path, device="cuda", memory_budget="6GB").config.memory_budget == 6 * 10**9
    assert load_workflow(path, device="cuda", memory_budget=1000).config.memory_budget == 1000
    with pytest.raises(ValueError, match="'6G' is not a size"):
        load_workflow(path, device="cuda", memory_budget="6G")
    with pytest.raises(ValueError, match="this run is on the CPU"):
        load_workflow(path, memory_budget="6GB")

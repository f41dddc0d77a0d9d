"""Calls of a model outside of loops run as graphs if they go from tensors to tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.acceleration.store import COMPARED, FOLDER
from tests.graph.acceleration.conftest import LEVEL, Both
from tests.graph.acceleration.quick_nodes import Network

Prepare = Callable[..., Both]
OUTPUT = "outputs: {x: sample.x}"
SHOW = (OUTPUT, "  shown: {use: quick.show, in: {model: model, x: sample.x}}\noutputs: {x: shown}")
OTHERS = {
    "reads a text": "quick.caption, in: {model: model, x: sample.x}, with: {text: hello}",
    "reads texts": "quick.captions, in: {model: model, x: sample.x}, with: {texts: [hello, there]}",
    "may return nothing": "quick.thumbnail, in: {model: model, x: sample.x}",
}


@pytest.fixture
def torch_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches of the calls of the network's second layer in torch."""
    calls: list[int] = []
    forward = torch.nn.Conv2d.forward

    def count(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if layer.out_channels == 3 and type(x) is torch.Tensor:
            calls.append(len(x))
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", count)
    return calls


def assert_same(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(pictures[1], pictures[0], atol=LEVEL, rtol=0)


def exported_paths(both: Both) -> list[tuple[str, ...]]:
    return [event.paths for event in both.events if event.state == "exported"]


def test_a_call_after_the_loop_is_exported_once_and_compared_once_for_a_size(
    prepare: Prepare, torch_calls: list[int]
) -> None:
    both = prepare(SHOW)
    assert_same(both.run())
    assert exported_paths(both)[-1] == ("nodes.shown",)
    both.states()
    counts = []
    all_changes: list[dict[str, Any]] = [{}, {"size": 16}, {"size": 16}]
    for changes in all_changes:
        eager = both.run("", **changes)[0]
        torch_calls.clear()
        assert_same((eager, both.run("onnx", **changes)[1]))
        counts.append(len(torch_calls))
    assert both.states() == []
    eager_calls = 3 + 1
    assert [count - eager_calls for count in counts] == [1, 2, 1], "the first step; and the picture at a new size"


def test_a_graph_that_is_exported_again_is_compared_again(prepare: Prepare, parts_folder: Path) -> None:
    both = prepare(SHOW)
    both.run()
    (noted,) = parts_folder.glob(f"*/{COMPARED}")
    for file in noted.parent.glob("*/graph.onnx"):
        file.write_bytes(b"damaged")
    both.states()
    assert_same(both.run())
    assert exported_paths(both) == [("nodes.shown",)]
    assert noted.is_file()


def test_a_wrong_graph_outside_of_loops_is_not_used(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from guidegraph.graph.acceleration.onnx_backend import OnnxRunner

    monkeypatch.setenv(FOLDER, str(tmp_path / "parts"))
    run = OnnxRunner.__call__
    monkeypatch.setattr(OnnxRunner, "__call__", lambda self, tensors: [out + 0.01 for out in run(self, tensors)])
    both = prepare(SHOW)
    with pytest.warns(UserWarning, match="results of its graph are") as record:
        assert torch.equal(*both.run())
    assert any(str(warning.message).startswith("nodes.shown: not accelerated") for warning in record)
    assert not list(tmp_path.glob(f"parts/*/{COMPARED}"))


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
def test_a_call_that_reads_or_returns_something_else_runs_in_torch(prepare: Prepare, call: str) -> None:
    both = prepare((OUTPUT, f"  shown: {{use: {call}}}\noutputs: {{x: shown}}"))
    assert_same(both.run())
    assert ("nodes.shown",) not in exported_paths(both)
    assert both.plan()["outside"] == []


def test_a_model_that_works_in_pieces_runs_in_torch_at_large_sizes(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "computes_in_pieces", lambda _, shape: max(shape, default=0) > 16, raising=False)
    both = prepare(SHOW)
    assert_same(both.run())
    with pytest.warns(UserWarning, match="nodes.shown: not accelerated, .*Network computes tensors of this size in"):
        assert torch.equal(*both.run(size=32))


def test_without_a_folder_only_loops_are_accelerated(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    both = prepare(SHOW)
    assert both.plan()["outside"] == [["nodes.shown"]]
    monkeypatch.setenv(FOLDER, "off")
    assert_same(both.run())
    assert len(exported_paths(both)) == 1
    assert both.plan()["outside"] == []

"""Models are values: those from nodes are frozen, and the caller's models are not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guidegraph import node
from guidegraph.graph.execution.run import run
from guidegraph.graph.node import get_spec
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build


@node("m.make")
def make() -> Any:
    """A model as its author left it: ready to train."""
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))


@node("m.through")
def through(model: Any) -> Any:
    """The model it is given."""
    return model


REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in (make, through)})


def go(text: str, folder: Path, values: dict[str, Any]) -> Any:
    (folder / "w.yaml").write_text("guidegraph: 1\n" + text)
    return run(build(folder / "w.yaml", REGISTRY), values).outputs["m"]


def test_a_model_from_a_node_is_frozen(tmp_path: Path) -> None:
    model = go("nodes: {a: {use: m.make}}\noutputs: {m: a}", tmp_path, {})
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_callers_model_is_used_frozen_but_not_changed(tmp_path: Path) -> None:
    own = torch.nn.Linear(2, 2).train()
    text = "params: {model: {type: any}}\nnodes: {a: {use: m.through, in: {model: params.model}}}\noutputs: {m: a}"
    model = go(text, tmp_path, {"model": own})
    assert own.training
    assert all(p.requires_grad for p in own.parameters())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    model.weight.data.zero_()
    assert own.weight.count_nonzero() > 0

"""Nodes in the body of a training loop that draw by a seed and an index."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from guidegraph import node
from guidegraph.graph.node import get_spec
from guidegraph.graph.resolution.load import build
from tests.graph.toys import REGISTRY, Picture


@node("toy.draw")
def draw(index: int = 0, *, seed: int = 0) -> Picture:
    """A picture."""
    raise NotImplementedError


TRAINING = """guidegraph: 1
params: {seed: 1}
nodes:
  data: {use: toy.batches}
  start: {use: toy.model}
  outside: {use: toy.draw}
  fit:
    loop: {over: data, as: b}
    carry: {net: start}
    body:
      drawn: {use: toy.draw, DRAW}
      loss: {use: toy.loss, in: {model: carry.net, x: drawn}}
    train: [{model: net, loss: loss}]
outputs: {net: fit.net, outside: outside}
"""


def load(folder: Path, draw_inputs: str, text: str = TRAINING) -> None:
    path = folder / "w.yaml"
    path.write_text(text.replace("DRAW", draw_inputs))
    build(path, replace(REGISTRY, nodes={**REGISTRY.nodes, "toy.draw": get_spec(draw)}))


@pytest.mark.parametrize("inputs", ["", "in: {seed: params.seed}", "with: {seed: 3}"])
def test_a_draw_without_an_index_in_a_training_loop_is_reported(tmp_path: Path, inputs: str) -> None:
    with pytest.warns(UserWarning, match=r"w\.yaml:11:\d+: .* in: \{index: loop\.index\}.*\[nodes\.fit\.body\.drawn\]"):
        load(tmp_path, inputs)


@pytest.mark.parametrize("inputs", ["in: {index: loop.index}", "with: {index: 0}", "in: {seed: loop.index}"])
def test_a_draw_that_is_told_which_one_is_not_reported(tmp_path: Path, inputs: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, inputs)


def test_a_draw_without_an_index_in_a_plain_loop_is_not_reported(tmp_path: Path) -> None:
    plain = TRAINING.replace("train: [{model: net, loss: loss}]", "next: {net: carry.net}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, "", plain)

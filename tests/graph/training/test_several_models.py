"""Trainings of several models: a loss for each, or one for several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guidegraph import NodeError
from guidegraph.graph.events import Event, LoopProgress
from tests.graph.engine_nodes import run_text

ADVERSARIES = """
nodes:
  a: {use: toy.line, with: {seed: 1}}
  b: {use: toy.line, with: {seed: 2}}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {one: a, two: b}
    body:
      l1: {use: toy.loss, in: {model: carry.one, x: loop.batch.x, y: loop.batch.y}}
      l2: {use: toy.loss, in: {model: carry.two, x: loop.batch.x, y: loop.batch.y}}
    train:
      - {model: one, loss: l1, optimizer: sgd, lr: 0.1}
      - {model: two, loss: l2, optimizer: sgd, lr: 0.1, start: 3}
    steps: 3
outputs: {one: fit.one, two: fit.two, a: a, b: b}
"""


def test_each_loss_moves_its_own_model_from_its_own_start(tmp_path: Path) -> None:
    out = run_text(ADVERSARIES, tmp_path).outputs
    assert not torch.equal(out["one"].weight, out["a"].weight)
    assert torch.equal(out["two"].weight, out["b"].weight)
    out = run_text(ADVERSARIES.replace("steps: 3", "steps: 4"), tmp_path).outputs
    assert not torch.equal(out["two"].weight, out["b"].weight)


def test_a_loss_that_does_not_depend_on_its_model_is_an_error(tmp_path: Path) -> None:
    wrong = ADVERSARIES.replace("{model: two, loss: l2,", "{model: two, loss: l1,").replace("start: 3", "start: 0")
    with pytest.raises(NodeError, match="the loss of 'two' does not depend on it"):
        run_text(wrong, tmp_path)


JUDGED = """
nodes:
  a: {use: toy.line, with: {seed: 1}}
  b: {use: toy.line, with: {seed: 2}}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {maker: a, judge: b}
    body:
      made: {use: toy.loss, in: {model: carry.maker, x: loop.batch.x, y: loop.batch.y}}
      verdict: {use: toy.judge_value, in: {model: carry.judge, value: made}}
      judge_loss: {use: toy.loss, in: {model: carry.judge, x: loop.batch.x, y: loop.batch.y}}
    train: [ENTRIES]
    steps: 3
outputs: {maker: fit.maker, judge: fit.judge}
"""


def test_all_gradients_are_of_the_weights_before_any_step(tmp_path: Path) -> None:
    """The maker's loss goes through the judge, as a generator's goes through its discriminator."""
    maker = "{model: maker, loss: verdict, optimizer: sgd, lr: 0.01}"
    judge = "{model: judge, loss: judge_loss, optimizer: sgd, lr: 0.01}"
    item, other = (
        run_text(JUDGED.replace("ENTRIES", ", ".join(order)), tmp_path).outputs
        for order in ((maker, judge), (judge, maker))
    )
    assert torch.equal(item["maker"].weight, other["maker"].weight)
    assert torch.equal(item["judge"].weight, other["judge"].weight)


@pytest.mark.parametrize(
    ("losses", "names"),
    [(("verdict", "verdict"), ["verdict"]), (("verdict.out", "judge_loss"), ["verdict.out", "judge_loss"])],
)
def test_the_progress_shows_each_loss_once_under_its_name(
    tmp_path: Path, losses: tuple[str, str], names: list[str]
) -> None:
    entries = [
        f"{{model: {model}, loss: {loss}, optimizer: sgd, lr: 0.01}}"
        for model, loss in zip(("maker", "judge"), losses, strict=True)
    ]
    shown: list[list[str]] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            shown.append(list(event.values))

    run_text(JUDGED.replace("ENTRIES", ", ".join(entries)), tmp_path, observers=[observe])
    assert shown == [names] * 3

"""An autoencoder and its discriminator trained in one body: who moves when, and that a broken run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Cancelled, WorkflowError, load_workflow
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress

WORKFLOW = """
guidegraph: 1
params: {steps: 6}
nodes:
  start:    {use: model.KIND_autoencoder, with: {channels: 8MORE}}
  opponent: {use: model.discriminator, with: {channels: 8}}
  data:     {use: data.scenes, with: {batch: 2, count: 4}}
  fit:
    loop: {over: data.batches, as: batch}
    carry: {autoencoder: start, discriminator: opponent}
    body:
      coded:  {use: loss.KIND_autoencoder, in: {autoencoder: carry.autoencoder, image: loop.batch.imageINDEX}}
      fooled:
        use: loss.generator
        in: {discriminator: carry.discriminator, image: coded.image, index: loop.index}
        with: {start: 3}
      weighed:
        use: loss.adaptive_weight
        in: {reconstruction: coded.reconstruction, generator: fooled, autoencoder: carry.autoencoder, index: loop.index}
        with: {start: 3}
      total:  {use: loss.sum, in: {losses: [coded.loss, weighed.loss]}}
      judged:
        use: loss.discriminator
        in: {discriminator: carry.discriminator, real: loop.batch.image, fake: coded.image, index: loop.index}
        with: {start: 3}
    train:
      - {model: autoencoder, loss: total, optimizer: adamw, lr: 1e-3, ema: 0.9}
      - {model: discriminator, loss: judged, optimizer: adamw, lr: 1e-3, start: 3}
    steps: params.steps
    checkpoint: {path: checkpoint, every: 100}
    collect: {total: total, judged: judged, weight: weighed.weight}
outputs:
  {autoencoder: fit.autoencoder, discriminator: fit.discriminator, opponent: opponent, total: fit.total,
   judged: fit.judged, weight: fit.weight}
"""
KINDS = {
    "kl": ("model.autoencoder", "", ", index: loop.index"),
    "vq": ("model.vq_autoencoder", ", codes: 16, decay: 0.9", ""),
}


def write_workflow(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    name, more, index = KINDS[kind]
    text = WORKFLOW.replace("model.KIND_autoencoder", name).replace("MORE", more)
    text = text.replace("KIND", kind).replace("INDEX", index)
    (folder / "train.yaml").write_text(text)
    return folder / "train.yaml"


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_opponent_comes_in_at_its_start(tmp_path: Path, kind: str) -> None:
    workflow = load_workflow(write_workflow(tmp_path, kind), cache="off")
    early = workflow.run(steps=3)
    assert early["weight"].tolist() == early["judged"].tolist() == [0, 0, 0]
    out = workflow.run(steps=6)
    assert bool((out["weight"][3:] > 0).all())
    assert out["judged"][3] == pytest.approx(1, abs=0.2)
    moved = zip(out["discriminator"].parameters(), out["opponent"].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    same = zip(early["discriminator"].parameters(), early["opponent"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_broken_run_resumes_to_the_same_losses_codes_and_opponent(tmp_path: Path) -> None:
    uninterrupted: dict[str, Any] = load_workflow(write_workflow(tmp_path / "whole", "vq"), cache="off").run()
    token = CancelToken()

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == 4:
            token.cancel()

    broken = write_workflow(tmp_path / "broken", "vq")
    with pytest.raises(Cancelled):
        load_workflow(broken, cache="off", observers=[observe]).run_with({}, cancel=token)
    again = load_workflow(broken, cache="off").run()
    for name in ("total", "judged", "weight"):
        assert torch.equal(uninterrupted[name], again[name]), name
    for name in ("autoencoder", "discriminator"):
        for key, value in uninterrupted[name].state_dict().items():
            assert torch.equal(value, again[name].state_dict()[key]), key


@pytest.mark.parametrize("id", ["generator", "discriminator", "adaptive_weight"])
def test_a_start_without_the_loops_index_is_refused_before_the_run(tmp_path: Path, id: str) -> None:
    path = write_workflow(tmp_path, "kl")
    head, tail = path.read_text().split(f"use: loss.{id}\n", 1)
    path.write_text(f"{head}use: loss.{id}\n{tail.replace(', index: loop.index', '', 1)}")
    with pytest.raises(WorkflowError, match=rf"loss\.{id}: port 'index': without it, step 3 never comes"):
        load_workflow(path).run()

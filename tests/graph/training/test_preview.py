"""Previews of a training loop: when they run, with what, where they go, and that the training does not notice them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Cancelled, NodeError, Previewed, PreviewReady, WorkflowError
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from guidegraph.graph.training.run_training import is_due
from tests.graph.engine_nodes import REGISTRY
from tests.graph.running import run_graph

LOOK = """
params:
  net: {type: Any}
  scale: {default: 1.0}
  index: {default: -1, type: int}
nodes:
  seen: {use: toy.look, in: {model: params.net, scale: params.scale, index: params.index}}
outputs: {seen: seen}
"""

PREVIEW = "preview: {every: EVERY, use: ./look.yaml, in: {net: carry.net, index: loop.index}}"


def text(preview: str = PREVIEW, every: object = 4, steps: int = 10, extra: str = "", saved: str = "") -> str:
    return f"""
params: {{every: 4}}
nodes:
  start: {{use: toy.line, with: {{seed: 3}}}}
  two: {{use: toy.number, with: {{value: 2.0}}}}
  data: {{use: toy.batches}}
  fit:
    loop: {{over: data, as: batch}}
    carry: {{net: start}}
    body:
      loss: {{use: toy.loss, in: {{model: carry.net, x: loop.batch.x, y: loop.batch.y}}, with: {{dropout: 0.3}}}}
    train: [{{model: net, loss: loss, lr: 0.05{extra}}}]
    steps: {steps}
    {saved}
    {preview.replace("EVERY", str(every))}
    collect: {{loss: loss}}
outputs: {{net: fit.net, loss: fit.loss}}
"""


def run(
    workflow: str, folder: Path, params: dict[str, Any] | None = None, **options: Any
) -> tuple[dict[str, Any], list[Previewed]]:
    folder.mkdir(exist_ok=True)
    (folder / "look.yaml").write_text("guidegraph: 1\n" + LOOK)
    (folder / "workflow.yaml").write_text("guidegraph: 1\n" + workflow)
    graph = build(folder / "workflow.yaml", REGISTRY)
    seen: list[Previewed] = []
    values = bind(graph, params or {})
    return run_graph(graph, values, on_preview=seen.append, **options).outputs, seen


def test_a_preview_is_run_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    _, seen = run(text(), tmp_path)
    assert [(p.loop, p.step, p.name) for p in seen] == [("fit", step, "seen") for step in (4, 8, 10)]
    assert [p.value.iteration for p in seen] == [3, 7, 9]
    assert not torch.equal(seen[0].value.weight, seen[1].value.weight)


def test_zero_is_never_and_a_parameter_can_say_how_often(tmp_path: Path) -> None:
    assert run(text(every=0), tmp_path)[1] == []
    assert [p.step for p in run(text(every="params.every"), tmp_path)[1]] == [4, 8, 10]
    assert [p.step for p in run(text(every="params.every"), tmp_path, params={"every": 5})[1]] == [5, 10]
    assert not is_due(0, 10, 10)
    with pytest.raises(WorkflowError, match=r"'every' of the preview of loop nodes\.fit"):
        run(text(every="params.every"), tmp_path, params={"every": -1})


def test_the_model_is_seen_frozen_and_as_the_average_where_there_is_one(tmp_path: Path) -> None:
    outputs, seen = run(text(), tmp_path)
    assert all(p.value.frozen for p in seen)
    assert torch.equal(seen[-1].value.weight, outputs["net"].weight)
    averaged, seen = run(text(extra=", ema: 0.9"), tmp_path)
    assert torch.equal(seen[-1].value.weight, averaged["net"].weight)
    assert not torch.equal(averaged["net"].weight, outputs["net"].weight)


def test_training_does_not_notice_a_preview_that_draws_random_numbers(tmp_path: Path) -> None:
    without, _ = run(text(preview=""), tmp_path)
    looked, _ = run(text(every=1), tmp_path)
    assert torch.equal(without["loss"], looked["loss"])
    assert torch.equal(without["net"].weight, looked["net"].weight)


def test_a_checkpoint_without_a_preview_goes_on_with_one_to_the_same_losses(tmp_path: Path) -> None:
    whole, _ = run(text(preview=""), tmp_path / "whole")
    saved, token = "checkpoint: {path: ckpt, every: 3}", CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == 5:
            token.cancel()

    with pytest.raises(Cancelled):
        run(text(preview="", saved=saved), tmp_path / "broken", observers=[stop], cancel=token)
    resumed, seen = run(text(every=3, saved=saved), tmp_path / "broken")
    assert [p.step for p in seen] == [6, 9, 10]
    assert torch.equal(whole["loss"], resumed["loss"])


def test_a_node_can_be_a_preview_and_reads_what_is_outside(tmp_path: Path) -> None:
    events: list[Event] = []
    item = "preview: {every: 5, use: toy.look, in: {model: carry.net, scale: two}}"
    _, seen = run(text(preview=item), tmp_path, observers=[events.append])
    assert [(p.step, p.name, p.value.scale) for p in seen] == [(5, "out", 2.0), (10, "out", 2.0)]
    ready = [event for event in events if isinstance(event, PreviewReady)]
    assert ready == [PreviewReady("nodes.fit", "out", 5), PreviewReady("nodes.fit", "out", 10)]


@pytest.mark.parametrize(
    ("preview", "message"),
    [
        ("preview: {use: ./look.yaml, in: {net: carry.net}}", "missing-key: a preview needs 'every'"),
        ("preview: {every: 4, in: {net: carry.net}}", "missing-key: expected 'use'"),
        ("preview: {every: -4, use: ./look.yaml, in: {net: carry.net}}", "bad-value: 'every'"),
        ("preview: {every: 4, use: ./look.yaml}", "missing-port: the workflow needs its parameter 'net'"),
        ("preview: {every: 4, use: ./none.yaml}", "no-file"),
        ("preview: {evry: 4, use: ./look.yaml, in: {net: carry.net}}", "unknown-key: unknown key 'evry'"),
        ("preview: {every: 4, use: toy.look, in: {model: loss}}", "a preview is not part of an iteration and cannot"),
        ("preview: {every: 4, use: toy.look, in: {model: loop.batch}}", "not part of an iteration and cannot read"),
        ("preview: {every: 4, use: toy.look, in: {model: carry.nut}}", "unknown-carry"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(preview: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as raised:
        run(text(preview=preview), tmp_path)
    assert message in str(raised.value)


def test_a_preview_belongs_to_a_training(tmp_path: Path) -> None:
    plain = text().replace("train: [{model: net, loss: loss, lr: 0.05}]", "next: {net: carry.net}")
    with pytest.raises(WorkflowError, match="'preview' belongs to a loop with 'train'"):
        run(plain, tmp_path)


def test_a_preview_that_fails_names_itself_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    failing = "preview: {every: 4, use: toy.boom, in: {a: two}}"
    with pytest.raises(NodeError, match=r"nodes\.fit\.preview"):
        run(text(preview=failing, saved="checkpoint: {path: ckpt, every: 4}"), tmp_path)
    assert (tmp_path / "ckpt" / "state.safetensors").exists()

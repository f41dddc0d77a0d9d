"""Trainings that go on from a checkpoint: fewer steps, another loop, and a run that ended in the middle of a step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guidegraph import Cancelled, NodeError, node
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Literal
from guidegraph.graph.training.checkpoint import fits_optimisers, optimiser_tensors
from guidegraph.graph.training.fit import Fit
from tests.graph.engine_nodes import REGISTRY, run_text
from tests.graph.running import run_graph
from tests.graph.training.test_fit import CARRIES, text


def test_a_checkpoint_of_more_steps_is_refused_and_stays(tmp_path: Path) -> None:
    longer = run_text(text(20, checkpoint=True), tmp_path).outputs
    with pytest.raises(NodeError, match=r"ckpt' is of 20 steps, and this training has 10: set 'steps' to 20"):
        run_text(text(10, checkpoint=True), tmp_path)
    again = run_text(text(20, checkpoint=True), tmp_path).outputs
    assert torch.equal(again["loss"], longer["loss"])
    assert torch.equal(again["net"].weight, longer["net"].weight)


def test_a_preview_that_fails_loses_no_steps(tmp_path: Path) -> None:
    failing = text(20, checkpoint=True).replace(
        "    steps: 20", "    preview: {every: 8, use: toy.unwrap, in: {a: carry.net}}\n    steps: 20"
    )
    seen: list[int] = []
    with pytest.raises(NodeError, match=r"nodes.fit.preview"):
        run_text(failing, tmp_path)
    with pytest.raises(NodeError, match=r"nodes.fit.preview"):
        run_text(
            failing,
            tmp_path,
            observers=[lambda event: seen.append(event.done) if isinstance(event, LoopProgress) else None],
        )
    assert seen == [*range(9, 17)]


REPEATED = """
nodes:
  start: {use: toy.line, with: {seed: 3}}
  data: {use: toy.batches}
  again: {use: toy.batches, with: {count: 2}}
  outer:
    loop: {over: again, as: round}
    carry: {last: start}
    body:
      fit:
        loop: {over: data, as: batch}
        carry: {net: FROM}
        body:
          loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}
        train:
          - {model: net, loss: loss, optimizer: adamw, lr: 0.05}
        steps: 4
        checkpoint: {path: ckpt}
    next: {last: fit.net}
outputs: {net: outer.last}
"""


def test_the_iterations_of_another_loop_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"the body of another loop, and '.*ckpt' would be the checkpoint of each"):
        run_text(REPEATED.replace("FROM", "carry.last"), tmp_path)
    assert not (tmp_path / "ckpt" / "state.safetensors").exists()


def test_a_training_that_needs_nothing_of_the_loop_around_it_runs_once_with_a_checkpoint(tmp_path: Path) -> None:
    inside = run_text(REPEATED.replace("FROM", "start"), tmp_path).outputs["net"]
    assert (tmp_path / "ckpt" / "state.safetensors").exists()
    assert torch.equal(inside.weight, run_text(text(4), tmp_path).outputs["net"].weight)


@pytest.mark.filterwarnings("ignore:the checkpoint in .* is of another optimizer")
def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    unchecked = text(4, checkpoint=True).replace("path: ckpt", "path: ckpt, check: false")
    whole = run_text(unchecked, tmp_path).outputs["loss"]
    diverging = unchecked.replace("lr: 0.05", "lr: 1e38").replace("adamw", "sgd").replace("steps: 4", "steps: 5")
    with pytest.raises(NodeError, match="the weights of 'net' are not finite after step 5: the training has diverged"):
        run_text(diverging, tmp_path)
    assert torch.equal(run_text(unchecked, tmp_path).outputs["loss"], whole)


def test_weights_that_are_not_finite_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="the weights of 'net' are not finite after step 1"):
        run_text(text(1).replace("lr: 0.05", "lr: 1e38").replace("adamw", "sgd"), tmp_path)


UNCHECKED = CARRIES.replace("DATA", "toy.batches").replace("path: ckpt,", "path: ckpt, check: false,")


@pytest.mark.parametrize("check", ["", ", check: true", ", check: false"])
def test_whether_the_key_is_checked_is_no_part_of_the_key(tmp_path: Path, check: str) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text(4, checkpoint=True).replace("path: ckpt", f"path: ckpt{check}"))
    fit = build(path, REGISTRY).ops["fit"]
    assert isinstance(fit, Fit)
    digested = dict(fit.digest_parts())["options"]
    assert isinstance(digested, Literal)
    assert digested.value == {"seed": 0, "check": True}, "what earlier versions digested without 'check'"


def test_the_check_is_left_out_for_once(tmp_path: Path) -> None:
    run_text(text(4, checkpoint=True), tmp_path)
    edited = text(8, checkpoint=True, dropout=0.2)
    once = run_text(edited.replace("path: ckpt", "path: ckpt, check: false"), tmp_path).outputs["loss"]
    longer = run_text(edited.replace("steps: 8", "steps: 12"), tmp_path).outputs["loss"]
    assert torch.equal(longer[:8], once)


def resume_unchecked(workflow: str, folder: Path) -> dict[str, Any]:
    return run_text(workflow.replace("path: ckpt", "path: ckpt, check: false"), folder).outputs


def test_a_moving_average_that_the_checkpoint_lacks_starts_from_its_weights(tmp_path: Path) -> None:
    weight = run_text(text(4, checkpoint=True), tmp_path).outputs["net"].weight
    with pytest.warns(UserWarning, match="no moving average of 'net': it starts from the weights after 4 steps"):
        average = resume_unchecked(text(4, checkpoint=True, ema=", ema: 0.9"), tmp_path)["net"].weight
    assert torch.equal(average, weight)
    with pytest.warns(UserWarning, match="no moving average"):
        resume_unchecked(text(8, checkpoint=True, ema=", ema: 0.9"), tmp_path)
    run_text(text(10, checkpoint=True, ema=", ema: 0.9"), tmp_path)


def test_the_weights_of_another_model_are_refused_with_its_name(tmp_path: Path) -> None:
    registry = Registry({**REGISTRY.nodes, "toy.normalised": get_spec(normalised)})
    run_text(text(4, checkpoint=True), tmp_path)
    other = text(8, checkpoint=True).replace("use: toy.line, with: {seed: 3}", "use: toy.normalised")
    path = tmp_path / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + other.replace("path: ckpt", "path: ckpt, check: false"))
    message = r"ckpt' does not fit the model 'net' \(missing: 0\.weight.*unexpected: .*choose another checkpoint"
    with pytest.raises(NodeError, match=message):
        run_graph(build(path, registry))


MOMENTUM = text(4, checkpoint=True, extra=", momentum: 0.9").replace("adamw", "sgd")


@pytest.mark.parametrize(("before", "after"), [(MOMENTUM, text(8, True)), (text(4, True), MOMENTUM)])
def test_another_optimizer_starts_anew(tmp_path: Path, before: str, after: str) -> None:
    run_text(before, tmp_path)
    with pytest.warns(UserWarning, match=r"of another optimizer of 'net': (adamw|sgd) starts over"):
        resumed = resume_unchecked(after.replace("steps: 4", "steps: 8"), tmp_path)
    assert resumed["loss"].shape == (8,)


def test_adam_goes_on_with_the_moments_of_adamw(tmp_path: Path) -> None:
    unchecked = text(6, checkpoint=True).replace("path: ckpt", "path: ckpt, check: false")
    run_text(unchecked, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_text(unchecked.replace("adamw", "adam").replace("steps: 6", "steps: 8"), tmp_path)
    tensors = load_file(tmp_path / "ckpt" / "state.safetensors")
    assert {int(tensor) for name, tensor in tensors.items() if name.endswith(".step")} == {8}


def test_another_optimizer_of_tensors_of_the_same_name_is_known_by_their_shapes() -> None:
    wide = torch.nn.Parameter(torch.zeros(3, 2))
    narrow = torch.nn.Parameter(torch.zeros(2))
    for parameter in (wide, narrow):
        parameter.grad = torch.ones_like(parameter)
    optimiser = torch.optim.AdamW([wide, narrow])
    optimiser.step()
    states = optimiser_tensors([optimiser])
    assert fits_optimisers([torch.optim.AdamW([wide, narrow])], states)
    assert not fits_optimisers([torch.optim.AdamW([narrow, wide])], states)


def test_a_loop_that_collects_more_than_its_checkpoint_has_goes_on_and_says_from_where(tmp_path: Path) -> None:
    run_text(UNCHECKED.replace("STEPS", "4"), tmp_path)
    more = UNCHECKED.replace("STEPS", "6").replace("count: n}", "count: n, again: loss}")
    with pytest.warns(UserWarning, match="'again' is collected from step 4 on: the checkpoint in "):
        resumed = run_text(more.replace("outputs: {", "outputs: {again: fit.again, "), tmp_path).outputs
    assert resumed["count"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert torch.equal(resumed["again"], resumed["loss"][4:])


def test_a_loop_that_carries_more_than_its_checkpoint_has_says_where_it_starts(tmp_path: Path) -> None:
    run_text(UNCHECKED.replace("STEPS", "4"), tmp_path)
    more = (
        UNCHECKED.replace("STEPS", "6").replace("n: zero}", "n: zero, more: zero}").replace("{n: n}", "{n: n, more: n}")
    )
    with pytest.warns(UserWarning, match="'more' is carried from step 4 on, from its first value"):
        assert run_text(more, tmp_path).outputs["n"] == 6.0


def test_a_loop_that_collects_less_than_its_checkpoint_has_goes_on(tmp_path: Path) -> None:
    whole = run_text(UNCHECKED.replace("STEPS", "4"), tmp_path).outputs
    fewer = UNCHECKED.replace("STEPS", "6").replace(", count: n}", "}").replace("count: fit.count, ", "")
    resumed = run_text(fewer, tmp_path).outputs
    assert torch.equal(resumed["loss"][:4], whole["loss"])
    assert (len(resumed["loss"]), resumed["n"]) == (6, 6.0)


@node("toy.normalised")
def normalised() -> Any:
    """A linear model of inputs that a layer with running statistics has normalised."""
    linear = torch.nn.utils.skip_init(torch.nn.Linear, 3, 1)
    torch.nn.init.constant_(linear.weight, 0.5)
    torch.nn.init.zeros_(linear.bias)
    return torch.nn.Sequential(torch.nn.BatchNorm1d(3), linear).eval().requires_grad_(False)


NESTED = (
    text(8, checkpoint=True)
    .replace("net, loss: loss", "net, loss: more.value")
    .replace("use: toy.line, with: {seed: 3}", "use: toy.normalised")
    .replace("use: toy.batches}", "use: toy.batches, with: {count: 3}}")
    .replace(
        "\n    train:",
        """
      more:
        loop: {over: data, as: again}
        carry: {value: loss}
        body:
          other: {use: toy.loss, in: {model: carry.net, x: loop.again.x, y: loop.again.y}}
        next: {value: other}
    train:""",
    )
)


def test_a_run_that_ends_within_a_step_keeps_the_buffers_from_before_it(tmp_path: Path) -> None:
    registry = Registry({**REGISTRY.nodes, "toy.normalised": get_spec(normalised)})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    token, inner_steps = CancelToken(), []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.path.endswith("more"):
            inner_steps.append(event)
            if len(inner_steps) == 11:
                token.cancel()

    def train(folder: Path, **options: Any) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        path = folder / "workflow.yaml"
        path.write_text("guidegraph: 1\n" + NESTED)
        return run_graph(build(path, registry), **options).outputs

    with pytest.raises(Cancelled):
        train(broken, cancel=token, observers=[observe])
    expected, resumed = train(whole), train(broken)
    assert torch.equal(resumed["loss"], expected["loss"])
    assert torch.equal(resumed["net"][0].running_mean, expected["net"][0].running_mean)
    assert int(resumed["net"][0].num_batches_tracked) == 8 * 4

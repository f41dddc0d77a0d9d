"""Whether unlike samples can share the calls of a part, as the export finds it out; nothing is traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.export.partition.subgraph import PartPlan
from guidegraph.graph.export.workflow import plan_export
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.resolution.load import build
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.types import Condition, Prediction, Sample, Scale, Scheduler, per_sample
from guidegraph_runtime.bundle.manifest_types import JOINS
from tests.graph.export.partition.planning import registry


@node("unlike.predict")
def predict(x: Sample, *, scale: Scale = 1.0, shift: float = 0.0) -> Prediction:
    return Prediction(torch.tanh(per_sample(scale, x) * x) + shift, "eps")


@node("unlike.raw")
def predict_raw(x: Sample, *, scale: Scale = 1.0, shift: float = 0.0) -> Prediction:
    """As above, with a scale that gets no axes, so that it fits one sample only."""
    return Prediction(torch.tanh(scale * x) + shift, "eps")


@node("unlike.mixed")
def predict_mixed(x: Sample, *, scale: Scale = 1.0, shift: float = 0.0) -> Prediction:
    """Each sample by the deviation of all."""
    return Prediction(x / x.std() + shift, "eps")


@node("unlike.late")
def act_late(prediction: Prediction, context: StepContext) -> Prediction:
    """From the second step on, with a step that gets no axes."""
    return Prediction(torch.where(context.step > 0, prediction.value, 0 * prediction.value), prediction.kind)


@node("unlike.along")
def act_along(prediction: Prediction, context: StepContext) -> Prediction:
    """The same with a step that fits the samples, and the share of the steps that are done."""
    share = context.along(context.step / context.steps).to(prediction.value.dtype)
    return Prediction(torch.where(context.along(context.step) > 0, share, 0) * prediction.value, prediction.kind)


@node("unlike.length")
def scale_by_length(prediction: Prediction, scheduler: Scheduler) -> Prediction:
    """By the number of the table's rows, which is that of several samplers in a shared call."""
    return Prediction(prediction.value * torch.ones_like(scheduler.alpha).sum().float(), prediction.kind)


@node("unlike.tokens")
def make_tokens(*, level: float = 0.5) -> Condition:
    return Condition(tokens=torch.ones(1, 5, 3) * level, mask=torch.ones(1, 5, dtype=torch.bool))


@node("unlike.masked")
def add_masked(prediction: Prediction, condition: Condition) -> Prediction:
    """Plus the sum of the tokens that count."""
    assert condition.tokens is not None
    assert condition.mask is not None
    total = (condition.tokens * condition.mask[:, :, None]).sum((1, 2)).reshape(-1, 1, 1, 1)
    return Prediction(prediction.value + total, prediction.kind)


@node("unlike.averaged")
def add_averaged(prediction: Prediction, condition: Condition) -> Prediction:
    """Plus the mean of all tokens, whether they count or not."""
    assert condition.tokens is not None
    return Prediction(prediction.value + condition.tokens.mean((1, 2)).reshape(-1, 1, 1, 1), prediction.kind)


NODES: list[Callable[..., Any]] = [predict, predict_raw, predict_mixed, act_late, act_along, scale_by_length]
NODES += [make_tokens, add_masked, add_averaged]

TEXT = """
params: {steps: 4, scale: 2.0, shift: 0.25, seed: 0, level: 0.5}
nodes:
  schedule: {use: schedule.scaled_linear}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}}
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 4, 8]}}
  tokens: {use: unlike.tokens, in: {level: params.level}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      here: {use: guidance.context, in: {scheduler: scheduler.scheduler, x: carry.x, state: carry.state, t: loop.t}}
      first: {use: PREDICT, in: {x: carry.x, scale: params.scale, shift: params.shift}}
      second: {use: GUIDE, in: {prediction: first, PORT}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: second, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""
INDICES = {"sample.carry.state.index": "rows", "sample.body.step.state.index": "rows"}


def plan_step(
    folder: Path, predict: str = "unlike.predict", guide: str = "unlike.along", port: str = "context: here"
) -> tuple[PartPlan, Any]:
    """The part of the loop's body, and its setting."""
    known = registry()
    nodes = {**known.nodes, **{get_spec(each).id: get_spec(each) for each in NODES}}
    file = folder / "workflow.yaml"
    file.write_text("guidegraph: 1\n" + TEXT.replace("PREDICT", predict).replace("GUIDE", guide).replace("PORT", port))
    graph = build(file, Registry(nodes=nodes, types=known.types))
    values = {name: parameter.default for name, parameter in graph.params.items()}
    planner, _, plan, _ = plan_export(graph, values)
    (loop,) = (operation for operation in plan if operation.op == "loop")
    (step,) = (operation for operation in loop.body or () if operation.op == "part")
    (part,) = (part for part in planner.parts if part.name == step.node)
    return part, step.settings[JOINS]


def axes_of(part: PartPlan, name: str) -> tuple[str | int, ...]:
    return next(item.axes for item in part.inputs if item.name == name)


def test_a_step_takes_a_row_and_a_scale_for_each_sample(tmp_path: Path) -> None:
    part, joins = plan_step(tmp_path)
    assert joins == {"indices": INDICES}
    assert axes_of(part, "sample.carry.state.index") == ("B",)
    assert axes_of(part, "params.scale") == ("B",)
    assert axes_of(part, "params.shift") == ()


def test_a_scale_that_gets_no_axes_stays_one_for_all(tmp_path: Path) -> None:
    part, joins = plan_step(tmp_path, predict="unlike.raw")
    assert joins == {"indices": INDICES}
    assert axes_of(part, "params.scale") == ()
    assert axes_of(part, "sample.carry.state.index") == ("B",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"predict": "unlike.mixed"}, "a sample of 'sample.body.step.x' depends on the other samples of the batch"),
        (
            {"guide": "unlike.late"},
            "it does not run with two unlike samples: nodes.sample.body.second (unlike.late): The size",
        ),
        (
            {"guide": "unlike.length", "port": "scheduler: scheduler.scheduler"},
            "a sample of 'sample.body.step.x' depends on the other samples of the batch",
        ),
    ],
)
def test_a_step_that_takes_one_row_for_all_is_planned_as_before(
    tmp_path: Path, changes: dict[str, str], why: str
) -> None:
    part, joins = plan_step(tmp_path, **changes)
    assert [*joins] == ["why"]
    assert joins["why"].startswith(why)
    assert axes_of(part, "sample.carry.state.index") == (1,)
    assert axes_of(part, "params.scale") == ()


@pytest.mark.parametrize(("guide", "padded"), [("unlike.masked", ["tokens"]), ("unlike.averaged", None)])
def test_tokens_may_be_padded_where_a_mask_is_honoured(tmp_path: Path, guide: str, padded: list[str] | None) -> None:
    _, joins = plan_step(tmp_path, guide=guide, port="condition: tokens")
    assert joins.get("padded") == padded
    assert joins["indices"] == INDICES

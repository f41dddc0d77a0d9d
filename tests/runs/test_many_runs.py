"""Runs with parameters of their own share the calls of the network, and each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Condition, Denoiser, NodeError, Prediction, Sample, Timesteps, WorkflowError, hookimpl, node
from guidegraph import load_workflow as load
from guidegraph.workflow import Workflow

BATCHES: list[int] = []
"""The number of samples of each call of the network."""


class Network:
    """A denoiser in closed form, in which each sample depends on its own x, t and condition."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        assert condition.vector is not None
        BATCHES.append(len(x))
        shift = condition.vector[:, :1, None, None]
        return Prediction(torch.tanh(x - shift) + t.reshape(-1, 1, 1, 1) / 1000, "eps")


NETWORK = Network()


@node("many.network")
def network() -> Denoiser:
    return NETWORK


@node("many.condition")
def condition(*, level: float = 0.0) -> Condition:
    if level < 0:
        raise ValueError("a level is not negative")
    return Condition(vector=torch.full((1, 2), level))


@node("many.shifted", batchable=("x", "t", "condition"))
def predict_shifted(
    denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition, *, shift: float = 0.0
) -> Prediction:
    return denoiser(x + shift, t, condition)


@node("many.inside")
def call_inside(denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition) -> Prediction:
    return denoiser(x, t.expand(len(x)), Condition(vector=condition.vector))


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    return (network, condition, predict_shifted, call_inside)


TEXT = """
guidegraph: 1
params: {level: 0.5, scale: 3.0, seed: 0, batch: 1, steps: 5, sampler: ddim, strength: 1.0}
nodes:
  network: {use: many.network}
  schedule: {use: schedule.scaled_linear}
  positive: {use: many.condition, in: {level: params.level}}
  negative: {use: many.condition}
  scheduler:
    use: scheduler.named
    in: {schedule: schedule, sampler: params.sampler, steps: params.steps, strength: params.strength}
  noise: {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [2, 4, 4]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond: {use: PREDICT, in: {denoiser: network, x: carry.x, t: loop.t, condition: positive}}
      uncond: {use: PREDICT, in: {denoiser: network, x: carry.x, t: loop.t, condition: negative}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}
      fresh: {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, noise: fresh, state: carry.state, t: loop.t}
        with: {data_rms: null}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""

REQUESTS: Sequence[dict[str, Any]] = (
    {},
    {"level": 0.1, "scale": 7.5, "seed": 5, "steps": 9, "sampler": "ddpm"},
    {"level": 0.9, "scale": 1.0, "seed": 2, "steps": 3, "sampler": "heun", "batch": 2},
    {"seed": 8, "steps": 8, "sampler": "dpmpp_2m", "strength": 0.5},
    {"level": 0.3, "seed": 1, "steps": 4, "sampler": "unipc"},
)


def load_many(predict: str = "denoiser.predict") -> Workflow:
    path = Path("many.yaml").absolute()
    return load(path, plugins=[__name__], cache="off", sources={str(path): TEXT.replace("PREDICT", predict)})


@pytest.fixture(autouse=True)
def _forget_calls() -> None:
    BATCHES.clear()


def check_as_alone(workflow: Workflow, requests: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
    for request, output in zip(requests, outputs, strict=True):
        torch.testing.assert_close(output["x"], workflow.run(**request)["x"], atol=1e-5, rtol=1e-5)


def test_unlike_runs_share_the_calls_of_the_network() -> None:
    workflow = load_many()
    outputs = workflow.run_many(REQUESTS)
    rows = {"ddpm": 9, "ddim": 5, "heun": 5, "dpmpp_2m": 4, "unipc": 4}
    assert len(BATCHES) == max(rows.values())
    assert BATCHES[0] == 2 * 6 - 2  # the runs have 6 samples; that of scale 1 leaves out its two unconditional ones
    check_as_alone(workflow, REQUESTS, outputs)


def test_the_result_says_how_many_calls_were_shared() -> None:
    many = load_many().run_many_with(REQUESTS)
    assert many.unshared == {}
    assert (many.calls, many.calls_alone) == (9, 9 + 5 + 5 + 4 + 4)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_run_begins_as_another_ends(at_once: int) -> None:
    workflow = load_many()
    many = workflow.run_many_with(REQUESTS, at_once=at_once)
    assert max(BATCHES) <= 2 * (at_once + 1)
    check_as_alone(workflow, REQUESTS, [result.outputs for result in many.results])


def test_a_node_that_calls_the_network_itself_runs_alone_and_the_reason_is_told() -> None:
    workflow = load_many("many.inside")
    many = workflow.run_many_with(REQUESTS[:2])
    assert set(many.unshared) == {"nodes.sample.body.cond", "nodes.sample.body.uncond"}
    assert all("many.inside calls a model itself" in reason for reason in many.unshared.values())
    assert max(BATCHES) == 1
    check_as_alone(workflow, REQUESTS[:2], [result.outputs for result in many.results])


def load_unlike() -> Workflow:
    """A workflow in which the runs may differ in the size of their samples, and in a setting of the network's node."""
    text = TEXT.replace("PREDICT", "many.shifted").replace("with: {shape: [2, 4, 4]}", "SHAPE")
    text = text.replace("params: {", "params: {shape: [2, 4, 4], shift: 0.0, ")
    text = text.replace("batch: params.batch}, SHAPE", "batch: params.batch, shape: params.shape}")
    text = text.replace("condition: positive}", "condition: positive, shift: params.shift}")
    path = Path("unlike.yaml").absolute()
    return load(path, plugins=[__name__], cache="off", sources={str(path): text})


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"shape": [2, 4, 8]}, "'x' differs: samples of sizes (2, 4, 4) and (2, 4, 8)"),
        ({"shift": 0.5}, "'shift' differs: 0.0 and 0.5, and a call takes one for all samples"),
    ],
)
def test_runs_that_differ_in_what_a_call_has_one_of_are_apart_and_told_why(
    request_: dict[str, Any], reason: str
) -> None:
    workflow = load_unlike()
    requests: list[dict[str, Any]] = [{}, {"seed": 3}, request_]
    many = workflow.run_many_with(requests)
    assert many.unshared["nodes.sample.body.cond"] == reason
    check_as_alone(workflow, requests, [result.outputs for result in many.results])


def test_wrong_parameters_are_found_before_anything_runs() -> None:
    with pytest.raises(WorkflowError, match="stepz") as caught:
        load_many().run_many([{}, {"stepz": 3}])
    assert caught.value.__notes__ == ["in run 2 of 2"]
    assert BATCHES == []


def test_an_error_of_one_run_ends_all_and_names_it() -> None:
    with pytest.raises(NodeError, match="a level is not negative") as caught:
        load_many().run_many([{}, {"level": -1.0}, {"seed": 3}])
    assert caught.value.__notes__ == ["in run 2 of 3"]


def test_no_runs_and_no_place_for_them() -> None:
    assert load_many().run_many([]) == []
    with pytest.raises(ValueError, match="at least one run is made at once; found 0"):
        load_many().run_many_with([{}], at_once=0)

"""Accelerated runs with values that get their sizes from the inputs of the calls that read them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.graph.acceleration.accelerator import forget_graphs
from guidegraph.graph.errors import NodeError
from guidegraph.nodes.models.own.unet import UNet
from guidegraph.nodes.types import SchedulerState
from tests.graph.acceleration.conftest import WORKFLOW
from tests.graph.acceleration.test_samplers import WORKFLOW as SAMPLER_WORKFLOW

WEIGHED = WORKFLOW.replace("{use: quick.shape, in: {square: params.square}}", "{use: fit.flagged}").replace(
    "{use: quick.bend, in: {x: guided, shape: shape}}", "{use: fit.weigh, in: {x: guided, weight: shape}}"
)

GROWING = (
    SAMPLER_WORKFLOW[: SAMPLER_WORKFLOW.index("      fresh:")].replace(", state: scheduler.state", "")
    + """
      mean:
        use: scheduler.mean
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: a, state: scheduler.state, t: loop.t}
      tall: {use: fit.double, in: {x: mean}}
    next: {x: tall}
outputs: {x: sample.x}
"""
)

NOISED = SAMPLER_WORKFLOW.replace(
    "      step:\n",
    """
      noisy:
        use: scheduler.add_noise
        in: {scheduler: scheduler.scheduler, x0: carry.x, noise: fresh, state: carry.state}
      step:
""",
).replace(
    "    next: {x: step.x,",
    """
      mixed: {use: quick.guide, in: {a: step.x, b: noisy}, with: {scale: 0.9}}
    next: {x: mixed,""",
)
"""A call without a port ``x`` is the first to read the state."""


@pytest.fixture
def path(parts_folder: Path, tmp_path: Path) -> Iterator[Path]:
    forget_graphs()
    yield tmp_path / "workflow.yaml"
    forget_graphs()


def run(path: Path, text: str, accelerate: str) -> torch.Tensor:
    path.write_text(text, encoding="utf-8")
    plugins = [f"tests.graph.acceleration.{name}" for name in ("quick_nodes", "fit_nodes")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x: torch.Tensor = load_workflow(path, cache="off", plugins=plugins, accelerate=accelerate).run()["x"]
        return x


def test_a_field_of_this_name_is_a_field(path: Path) -> None:
    torch.testing.assert_close(run(path, WEIGHED, "onnx"), run(path, WEIGHED, ""), atol=1e-5, rtol=0)


def test_a_method_of_a_model_is_not_called(path: Path) -> None:
    text = WEIGHED.replace("quick.model", "fit.model")
    torch.testing.assert_close(run(path, text, "onnx"), run(path, text, ""), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("reason", "message"), [("no size", "RuntimeError: no size"), ("", "expected a Failing; found NoneType")]
)
def test_an_error_of_the_method_names_the_call_and_the_type(path: Path, reason: str, message: str) -> None:
    text = WEIGHED.replace("{use: fit.flagged}", f"{{use: fit.failing, with: {{reason: '{reason}'}}}}")
    with pytest.raises(NodeError, match=r"port 'weight': Failing\.fit_to_inputs failed: .*" + message) as raised:
        run(path, text, "onnx")
    assert raised.value.path == "nodes.sample.body.bent"


def test_a_value_that_stays_the_same_gets_the_sizes_of_each_call(path: Path) -> None:
    torch.testing.assert_close(run(path, GROWING, "onnx"), run(path, GROWING, ""), atol=1e-4, rtol=0)


def test_the_first_reader_that_knows_the_sizes_gives_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, _ = run(path, NOISED, ""), run(path, NOISED, "onnx")
    monkeypatch.setattr(UNet, "forward", None)
    torch.testing.assert_close(run(path, NOISED, "onnx"), eager, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_a_state_is_made_like_those_of_later_steps(dtype: torch.dtype, expected: torch.dtype) -> None:
    state = SchedulerState(torch.zeros(1, dtype=torch.int64), torch.arange(4.0))
    fitted = state.fit_to_inputs({"x": torch.ones(3, 2, 5, dtype=dtype)})
    assert (fitted.slots.shape, fitted.slots.dtype) == ((4, 3, 2, 5), expected)
    assert fitted.slots.is_contiguous()
    assert torch.equal(fitted.slots[:, 0, 0, 0], torch.arange(4, dtype=expected))
    assert state.slots.shape == (4,)


def test_a_state_stays_where_nothing_tells_its_sizes() -> None:
    state = SchedulerState(torch.zeros(1, dtype=torch.int64), torch.zeros(4))
    assert state.fit_to_inputs({}) is state
    fitted = state.fit_to_inputs({"x": torch.ones(1, 2)})
    assert fitted.fit_to_inputs({"x": torch.ones(3, 2)}) is fitted

"""The warning of a run whose x̂0 ends out of the range of its model's data."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from guidegraph import load_workflow
from tests.paths import ROOT

TEXT = """guidegraph: 1
params: {{turns: 1}}
nodes:
  schedule: {{use: schedule.scaled_linear}}
  sampler: {{use: scheduler.ddim, in: {{schedule: schedule}}, with: {{steps: 6{sampler}}}}}
  first: {{use: tensor.slice, in: {{tensor: sampler.steps}}, with: {{stop: 2}}}}
  noise: {{use: noise.gaussian, with: {{shape: [4, 8, 8], batch: 2}}}}
  turns:
    loop: {{over: params.turns, as: turn}}
    carry: {{last: noise}}
    body:
      sample:
        loop: {{over: {steps}, as: t}}
        carry: {{x: carry.last, state: sampler.state}}
        body:
          predict: {{use: toy.predict, in: {{x: carry.x, index: loop.index}}, with: {{{prediction}}}}}
          step:
            use: scheduler.step
            in: {{scheduler: sampler.scheduler, x: carry.x, prediction: predict, state: carry.state, t: loop.t}}
            with: {{{step}}}
        next: {{x: step.x, state: step.state}}
    next: {{last: sample.x}}
outputs: {{x: turns.last}}
"""


def run(
    folder: Path, prediction: str, sampler: str = "", step: str = "", steps: str = "sampler.steps", **params: int
) -> tuple[torch.Tensor, list[str]]:
    """Run the workflow. Returns its sample and its warnings."""
    path = folder / "w.yaml"
    path.write_text(TEXT.format(prediction=prediction, sampler=sampler, step=step, steps=steps))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn = load_workflow(path, cache="off", plugins=["tests.nodes.sampling.toy_denoiser"]).run(**params)["x"]
    return drawn, [str(warning.message) for warning in caught]


def test_a_run_that_ends_out_of_range_names_the_node_and_the_first_such_step(tmp_path: Path) -> None:
    _, (message,) = run(tmp_path, "gain: 60.0, first: 2")
    location = f"{tmp_path / 'w.yaml'}:17:11: nodes.turns.body.sample.body.step (scheduler.step)"
    assert message.startswith(f"{location}: from step 3 of 6 on x̂0 is out of the range that its model knows")
    assert "a root mean square of 60, and the data has 1." in message


@pytest.mark.parametrize("samples", [0, 1])
def test_one_sample_of_a_batch_is_enough_to_warn(tmp_path: Path, samples: int) -> None:
    assert len(run(tmp_path, f"gain: 60.0, samples: {samples}")[1]) == samples


def test_a_loop_that_ends_with_more_noise_than_signal_does_not_warn(tmp_path: Path) -> None:
    assert run(tmp_path, "gain: 60.0", steps="first")[1] == []


def test_a_run_warns_once(tmp_path: Path) -> None:
    _, messages = run(tmp_path, "gain: 60.0", turns=3)
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("prediction", "sampler", "step"),
    [
        ("gain: 4.9", "", ""),
        ("gain: 60.0, last: 3", "", ""),  # early x̂0 of a good run may be far out
        ("gain: 60.0", ", clip: true", ""),
        ("gain: 60.0", "", "data_rms: 20.0"),
        ("gain: 60.0", "", "data_rms: null"),
    ],
)
def test_values_that_stay_in_or_return_to_range_do_not_warn(
    tmp_path: Path, prediction: str, sampler: str, step: str
) -> None:
    assert run(tmp_path, prediction, sampler, step)[1] == []


def test_the_limit_scales_with_data_rms(tmp_path: Path) -> None:
    assert run(tmp_path, "gain: 2.0", step="data_rms: 0.5")[1] == []
    assert "the data has 0.25" in run(tmp_path, "gain: 2.0", step="data_rms: 0.25")[1][0]


def test_overflow_is_out_of_range(tmp_path: Path) -> None:
    assert "a root mean square of inf" in run(tmp_path, "gain: 1e+38, first: 4")[1][0]


def test_watching_the_range_does_not_change_the_result(tmp_path: Path) -> None:
    watched, _ = run(tmp_path, "gain: 60.0")
    unwatched, _ = run(tmp_path, "gain: 60.0", step="data_rms: null")
    assert torch.equal(watched, unwatched)


@pytest.mark.parametrize("is_noise", [False, True])
def test_a_noisy_picture_of_a_shipped_model_warns_and_a_good_one_does_not(tmp_path: Path, is_noise: bool) -> None:
    """From σ/α = 20,291 (t = 999), ε̂ of text_and_classifier has no information about x0: 8 of 8 pictures are noise."""
    shipped = (ROOT / "workflows" / "text_and_classifier.yaml").read_text()
    original = "scheduler: {use: scheduler.ddim, in: {schedule: model.schedule, steps: params.steps}}"
    plain = "plain: {use: schedule.trained, in: {schedule: model.schedule}}"
    levels = "levels: {use: levels.linspace, in: {schedule: plain, steps: params.steps}}"
    sampler = "scheduler: {use: scheduler.dpmpp_2m, in: {schedule: plain, levels: levels}}"
    replacement = f"{plain}\n  {levels}\n  {sampler}"
    assert original in shipped
    path = tmp_path / "w.yaml"
    path.write_text(shipped.replace(original, replacement) if is_noise else shipped)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_workflow(path, cache="off").run(steps=10)
    messages = [str(warning.message) for warning in caught if "out of the range" in str(warning.message)]
    assert len(messages) == int(is_noise)

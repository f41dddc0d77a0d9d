"""Guidance of a third party exports inside the step, with no change here; what cannot be traced is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph import load_workflow
from guidegraph.graph.export.errors import ExportError
from tests.graph.export.exporting import LEVEL, WORKFLOWS, changed, difference, made, small_class_model

PLUGIN = '''
"""Guidance of a third party."""

from dataclasses import dataclass, replace

import torch

from guidegraph import Denoiser, Prediction, Sample, Score, Timesteps, hookimpl, node, per_sample


@node("theirs.momentum")
def momentum(
    cond: Prediction, uncond: Prediction, before: Prediction, *, scale: float = 2.0, beta: float = 0.5
) -> Prediction:
    """Classifier-free guidance along the direction of this step and of those before it."""
    direction = cond - uncond + beta * before
    return uncond + scale * direction


@node("theirs.direction")
def direction(cond: Prediction, uncond: Prediction, before: Prediction, *, beta: float = 0.5) -> Prediction:
    """What the next step remembers."""
    return cond - uncond + beta * before


@node("theirs.still")
def still(x: Sample) -> Prediction:
    """No direction yet."""
    return Prediction(torch.zeros_like(x), "v")


@node("theirs.grey")
def grey(denoiser: Denoiser, x: Sample, t: Timesteps, *, strength: float = 1.0) -> Score:
    """A score toward pictures whose mean is mid-grey: a gradient through the denoiser."""
    from guidegraph import Condition

    with torch.enable_grad():
        x_in = x.detach().requires_grad_()
        said = denoiser(x_in, t.expand(x.shape[0]), Condition()).value
        (gradient,) = torch.autograd.grad(said.mean((1, 2, 3)).square().sum(), x_in)
    return -strength * gradient


@node("theirs.item")
def with_item(prediction: Prediction) -> Prediction:
    """A prediction that is at most 1, by a choice of Python's."""
    greatest = prediction.value.abs().max().item()
    return prediction / greatest if greatest > 1 else prediction


@node("theirs.numpy")
def with_numpy(prediction: Prediction) -> Prediction:
    """A prediction that NumPy rounds."""
    return replace(prediction, value=torch.from_numpy(prediction.value.numpy().round(3)))


@hookimpl
def guidegraph_nodes():
    return [momentum, direction, still, grey, with_item, with_numpy]
'''
CARRY = [
    ("carry: {x: noise, state: scheduler.state}", "carry: {x: noise, state: scheduler.state, direction: still}"),
    ("next: {x: step.x, state: step.state}", "next: {x: step.x, state: step.state, direction: direction}"),
    ("  sample:\n", "  still: {use: theirs.still, in: {x: noise}}\n  sample:\n"),
    (
        "guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}",
        "guided: {use: theirs.momentum, "
        "in: {cond: cond, uncond: uncond, before: carry.direction, scale: params.scale}}\n"
        "      direction: {use: theirs.direction, in: {cond: cond, uncond: uncond, before: carry.direction}}",
    ),
]
"""The directions of all steps before, in a carry."""

GRADIENT = [
    (
        "score:     {use: guidance.classifier, in: {classifier: guide.classifier, x: carry.x, t: loop.t, label: label, "
        "scale: params.scale}}",
        "score: {use: theirs.grey, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, strength: params.scale}}",
    ),
]
"""A gradient through the denoiser in the place of a classifier's."""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of the plugin, a module that is imported once."""
    path = tmp_path_factory.mktemp("plugin") / "theirs.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return str(path)


def refined(how: str) -> list[tuple[str, str]]:
    """The guided prediction through a node that cannot be traced."""
    return [
        ("      step:\n", f"      rough: {{use: theirs.{how}, in: {{prediction: guided}}}}\n      step:\n"),
        ("prediction: guided", "prediction: rough"),
        ("in: {prediction: rough}}\n      step", "in: {prediction: guided}}\n      step"),
    ]


def test_predictions_with_a_state_in_a_carry_export_in_the_step(plugin: str, tmp_path: Path) -> None:
    small = ('"pkg:fashion_class"', f'"{small_class_model(tmp_path / "model")}"')
    workflow = changed(WORKFLOWS / "class_cfg.yaml", [*CARRY, small], tmp_path)
    actual = made(workflow, tmp_path, (plugin,), steps=3, batch=2)
    assert set(actual.bundle.manifest.parts) == {"encode", "sample.step"} | {"encode2"} & set(
        actual.bundle.manifest.parts
    )
    (tmp_path / "engine").mkdir()
    for arguments in ({}, {"steps": 5, "scale": 3.0, "batch": 3}):
        assert difference(actual.run(**arguments), actual.engine(tmp_path / "engine", **arguments)) <= LEVEL
    plain = load_workflow(changed(WORKFLOWS / "class_cfg.yaml", [small], tmp_path / "engine")).run(steps=3, batch=2)
    assert difference(actual.run(), {name: item.numpy() for name, item in plain.items()}) > LEVEL


@pytest.mark.slow
def test_a_gradient_through_the_denoiser_exports_in_the_step(plugin: str, tmp_path: Path) -> None:
    workflow = changed(WORKFLOWS / "class_classifier_guidance_ddpm.yaml", GRADIENT, tmp_path)
    actual = made(workflow, tmp_path, (plugin,), steps=3, batch=2, scale=30.0)
    (tmp_path / "engine").mkdir()
    for arguments in ({}, {"steps": 5, "batch": 3}):
        assert difference(actual.run(**arguments), actual.engine(tmp_path / "engine", **arguments)) <= LEVEL
    assert difference(actual.run(), actual.run(scale=0.0)) > LEVEL


@pytest.mark.parametrize(
    ("how", "reason"), [("item", "a tensor's value decides"), ("numpy", "hands a tensor to NumPy")]
)
def test_a_node_that_cannot_be_traced_is_named_and_nothing_is_written(
    plugin: str, tmp_path: Path, how: str, reason: str
) -> None:
    small = ('"pkg:fashion_class"', f'"{small_class_model(tmp_path / "model")}"')
    workflow = changed(WORKFLOWS / "class_cfg.yaml", [*refined(how), small], tmp_path)
    with pytest.raises(ExportError, match=reason) as caught:
        made(workflow, tmp_path, (plugin,), steps=3, batch=2)
    message = str(caught.value)
    assert f"theirs.{how}" in message
    assert "theirs.py" in message
    assert "host=True" in message
    assert not (tmp_path / "bundle").exists()

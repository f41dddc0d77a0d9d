"""The built-in nodes keep the contract that plugins are held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("onnxscript")

from guidegraph_testing import (
    Check,
    Inapplicable,
    NodeCase,
    Nonconforming,
    applicable_checks,
    cases_of,
    run_check,
)
from plugins.testing.tests.builtin_cases import NOT_BUILT, overrides, specs

EXPORTED = ("guidance.", "denoiser.", "scheduler.")
"""What runs in the steps of a bundle; the export of the others is slow together."""

SLOW = ("scheduler.step", "denoiser.features")
"""The first has another case, with noise and a score, that exports the same function; the second holds a U-Net."""


SAYS_NOTHING = {
    "batch invariance": (
        "data.folder_latents data.latents image.grid label.named loss.cross_entropy loss.denoising loss.detector "
        "loss.discriminator loss.distillation loss.generator loss.perceptual loss.segmentation loss.sum loss.vector "
        "metric.miou tensor.cat tensor.merge tensor.select"
    ),
    "dtypes": (
        "data.emoji data.fashion_mnist data.folder data.folder_latents data.latents data.scenes "
        "metric.start_clock model.detector model.load"
    ),
    "inputs unchanged": "label.constant plot.lines plot.scatter table.join",
    "device independence": "data.folder_latents data.latents model.detector",
    "gradients": "coding.steps data.folder_latents data.latents",
    "shapes": "data.folder_latents data.latents",
    "ONNX export": "guidance.interval",
}
"""Checks that say nothing of a node, as only a call of it tells: its `Tensor` is one number, its `Any` a table."""


def checks() -> Iterator[object]:
    functions = [spec.function for id, spec in specs().items() if id not in NOT_BUILT]
    for case in cases_of(functions, overrides()):
        for name in applicable_checks(case):
            if case.id in SAYS_NOTHING.get(name, "").split():
                continue
            check = Check(case, name)
            slow = name == "ONNX export" and (case.id in SLOW or not case.id.startswith(EXPORTED))
            yield pytest.param(check, id=check.id, marks=[pytest.mark.slow] if slow else [])


def by_design() -> Iterator[object]:
    """The cases without what they leave out, and the check that must then fail."""
    for case in overrides():
        plain = replace(case, skip={}, detached={})
        for name in [*case.skip, *(["gradients"] if case.detached else [])]:
            marks = [pytest.mark.slow] if name == "ONNX export" else []
            yield pytest.param(plain, name, id=f"{case.id}-{name.replace(' ', '-')}", marks=marks)


@pytest.mark.parametrize("check", list(checks()))
def test_a_built_in_node_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_a_check_that_is_left_out_is_inapplicable(name: str) -> None:
    left_out = SAYS_NOTHING[name].split()
    overriding = [case for case in overrides() if case.spec.id in left_out]
    cases = {case.id: case for case in cases_of([specs()[id].function for id in left_out], overriding)}
    for id in left_out:
        with pytest.raises(Inapplicable):
            run_check(cases[id], name)


@pytest.mark.parametrize("id", sorted(NOT_BUILT.keys() - {"text.minilm"}))
def test_the_inputs_of_a_node_that_is_left_out_cannot_be_made(id: str) -> None:
    with pytest.raises(Nonconforming):
        run_check(NodeCase(specs()[id].function), "types")


@pytest.mark.parametrize("id", sorted(NOT_BUILT))
def test_a_node_that_is_left_out_is_documented_all_the_same(id: str) -> None:
    run_check(NodeCase(specs()[id].function), "docs")


@pytest.mark.parametrize(("case", "name"), list(by_design()))
def test_exceptions_by_design_are_needed(case: NodeCase, name: str) -> None:
    with pytest.raises(Nonconforming):
        run_check(case, name)


def test_no_node_is_both_left_out_and_given_values() -> None:
    assert not {case.spec.id for case in overrides()} & NOT_BUILT.keys()

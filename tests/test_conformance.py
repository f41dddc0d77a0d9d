"""The built-in nodes keep the contract that plugins are held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("onnxscript")

from guidegraph.testing import CHECKS, Check, NodeCase, Nonconforming, cases_of, run_check
from tests.testing.builtin_cases import NOT_BUILT, overrides, specs

EXPORTED = ("guidance.", "denoiser.", "scheduler.")
"""What runs in the steps of a bundle; the export of the others is slow together."""

SLOW = ("scheduler.step", "denoiser.features")
"""The first has another case, with noise and a score, that exports the same function; the second holds a U-Net."""


def checks() -> Iterator[object]:
    functions = [spec.function for id, spec in specs().items() if id not in NOT_BUILT]
    for case in cases_of(functions, overrides()):
        for name in CHECKS:
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


@pytest.mark.parametrize("id", sorted(NOT_BUILT.keys() - {"text.minilm"}))
def test_the_inputs_of_a_node_that_is_left_out_cannot_be_made(id: str) -> None:
    with pytest.raises(Nonconforming):
        run_check(NodeCase(specs()[id].function), "types")


@pytest.mark.parametrize("id", sorted(NOT_BUILT))
def test_a_node_that_is_left_out_is_documented_all_the_same(id: str) -> None:
    run_check(NodeCase(specs()[id].function), "docs")


@pytest.mark.parametrize(("case", "name"), list(by_design()))
def test_what_is_said_to_be_by_design_does_not_hold(case: NodeCase, name: str) -> None:
    with pytest.raises(Nonconforming):
        run_check(case, name)


def test_no_node_is_both_left_out_and_given_values() -> None:
    assert not {case.spec.id for case in overrides()} & NOT_BUILT.keys()

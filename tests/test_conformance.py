"""The built-in nodes keep the contract that plugins are held to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("onnxscript")

from guidegraph.graph.node import spec_of
from guidegraph.testing import CHECKS, Check, NodeCase, cases_of
from tests.testing.builtin_cases import NOT_BUILT, overrides, specs

EXPORTED = ("guidance.", "denoiser.", "scheduler.")
"""What runs in the steps of a bundle; the export of the others is slow together."""


def checks() -> Iterator[object]:
    functions = [spec.function for id, spec in specs().items() if id not in NOT_BUILT]
    for case in cases_of(functions, overrides()):
        for name in CHECKS:
            check = Check(case, name)
            slow = name == "ONNX export" and not case.id.startswith(EXPORTED)
            yield pytest.param(check, id=check.id, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("check", checks())
def test_a_built_in_node_conforms(check: Check) -> None:
    check()


def test_a_node_that_is_left_out_cannot_be_checked() -> None:
    assert NOT_BUILT.keys() <= specs().keys()


def test_values_are_given_only_where_examples_do_not_do() -> None:
    given = {case.spec.id for case in overrides()}
    assert not given & NOT_BUILT.keys()
    assert all(spec_of(case.node) is specs()[case.spec.id] for case in overrides())


def test_documentation_of_a_node_that_is_left_out_is_checked_all_the_same() -> None:
    from guidegraph.testing.run import run_check

    for id in NOT_BUILT:
        run_check(NodeCase(specs()[id].function), "docs")

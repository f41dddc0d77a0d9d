"""Checks are collected only where they apply, as decided by the declaration of the node, and confirmed by calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from guidegraph import Image, Prediction, Sample, Schedule, Scheduler, Timesteps, node
from guidegraph.graph.types import to_port_type
from guidegraph_testing import CHECKS, NodeCase, applicable_checks, cases_of, conformance_cases, why_inapplicable
from guidegraph_testing.applicable import possible_contents
from guidegraph_testing.arguments import Arguments, call_node, is_texts, make_arguments, output_leaves
from plugins.testing.tests import wrong_nodes
from plugins.testing.tests.builtin_cases import NOT_BUILT, overrides, specs

ALWAYS = ["docs", "types", "dtypes", "determinism"]


@node("applicable.random", pure=False)
def random(x: Sample) -> Sample:
    """A sample with noise."""
    return x + torch.randn_like(x)


@node("applicable.number")
def number(x: Sample, *, name: str) -> str:
    """A text about a sample; name: its beginning."""
    return f"{name} {x.mean()}"


@node("applicable.table")
def table(scheduler: Scheduler) -> Scheduler:
    """A sampler whose noise levels are halved."""
    return replace(scheduler, sigma=scheduler.sigma / 2)


@pytest.mark.parametrize(
    ("case", "left_out"),
    [
        (NodeCase(wrong_nodes.good), set()),
        (NodeCase(wrong_nodes.good, skip={"docs": "documented elsewhere"}), {"docs"}),
        (NodeCase(wrong_nodes.mixes), {"identity", "needs"}),
        (NodeCase(wrong_nodes.on_host), set(CHECKS) - {"docs", "types", "files", "determinism", "previews"}),
        (NodeCase(random), {"determinism", "device independence", "gradients", "identity", "needs", "ONNX export"}),
        (
            NodeCase(number),
            {"shapes", "dtypes", "batch invariance", "gradients", "identity", "needs", "ONNX export"},
        ),
        (NodeCase(table), {"dtypes", "batch invariance", "gradients", "identity", "needs"}),
        (
            NodeCase(wrong_nodes.mixes, detached={"prediction": "a constant"}),
            {"gradients", "identity", "needs"},
        ),
    ],
    ids=lambda value: value.id if isinstance(value, NodeCase) else "",
)
def test_checks_that_a_declaration_rules_out(case: NodeCase, left_out: set[str]) -> None:
    assert set(CHECKS) - set(applicable_checks(case)) == left_out | {
        "previews",
        "waits",
    }  # no plugin, no device
    assert [check.values[0].name for check in conformance_cases([case.node], case)] == applicable_checks(case)  # type: ignore[attr-defined]


def test_an_optional_port_counts_if_the_case_gives_it() -> None:
    (pooled,) = (s.function for s in specs().values() if s.id == "denoiser.features")
    spec = NodeCase(pooled).spec
    assert not spec.inputs["condition"].required
    assert why_inapplicable(NodeCase(pooled), "shapes") is None


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Image, {"tensor", "float", "batch"}),
        (Timesteps, {"tensor", "float", "batch"}),
        (Prediction, {"tensor", "float", "batch"}),
        (Schedule, {"tensor", "float"}),
        (list[str], {"list", "text"}),
        (float | torch.Tensor, {"tensor", "float", "batch"}),
        (int, set()),
    ],
)
def test_possible_contents_of_types(annotation: Any, expected: set[str]) -> None:
    assert possible_contents(to_port_type(annotation)) == expected


def builtin_cases() -> Iterator[NodeCase]:
    functions = [spec.function for id, spec in specs().items() if id not in NOT_BUILT]
    yield from cases_of(functions, overrides())


def test_no_applicable_check_of_a_built_in_node_is_left_out() -> None:
    """Compare with the values: the input and output tensors of each node."""
    compared = 0
    for case in builtin_cases():
        reasons = {name: why_inapplicable(case, name) for name in ("shapes", "batch invariance", "inputs unchanged")}
        reasons = {name: reason for name, reason in reasons.items() if reason and not reason.startswith("by design")}
        if not reasons:
            continue
        arguments = make_arguments(case)
        outputs = call_node(case, arguments) if any("no output" in reason for reason in reasons.values()) else {}
        for name, reason in reasons.items():
            assert not contradicts(case, arguments, outputs, reason), (case.id, name, reason)
            compared += 1
    assert compared > 100


def contradicts(case: NodeCase, arguments: Arguments, outputs: dict[str, Any], reason: str) -> bool:
    """Whether a node's values contradict the reason why a check was left out."""
    inputs = [leaf for _, leaf in arguments.leaves(case)]
    results = [leaf for _, leaf in output_leaves(case, outputs)]
    contradictions = {
        "no input is a tensor": bool(inputs),
        "no output is a tensor": bool(results),
        "no input has a batch axis": any("B" in leaf.axes for leaf in inputs)
        or any(map(is_texts, arguments.ports.values())),
        "no output has a batch axis": any("B" in leaf.axes for leaf in results),
        "it has no arguments that could be changed in place": bool(inputs),
    }
    return contradictions[reason]

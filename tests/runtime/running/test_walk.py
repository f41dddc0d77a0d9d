"""The walk of a plan gives the results of the table of cases, whether it computes, rehearses or is held open."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.compute import Computation, refuse_part
from guidegraph_runtime.running.rehearse import Rehearsal, Unknown
from guidegraph_runtime.running.values import Values
from tests.runtime.running.plan_cases import CASES, read_parts, read_plan, read_value, run_part

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def start_values(case: dict[str, Any]) -> Values:
    return Values({name: read_value(value) for name, value in case["values"].items()})


def make_run(case: dict[str, Any], calls: list[str]) -> Computation:
    def call(name: str, inputs: Any, /) -> dict[str, Any]:
        calls.append(name)
        return run_part(name, inputs)

    return Computation("here", call, lambda name: b"", start_values(case))


def check(case: dict[str, Any], actual: Any, calls: list[str]) -> None:
    for name, value in case["expected"].items():
        expected = read_value(value)
        array = np.asarray(actual[name])
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert np.array_equal(array, expected), name
    assert calls == case.get("calls", [])


@each_case
def test_a_plan_computes(case: dict[str, Any]) -> None:
    calls: list[str] = []
    run = make_run(case, calls)
    plan, targets = read_plan(case["plan"]), [*case["expected"]]
    if "error" not in case:
        run.run(plan, targets)
        check(case, run.values, calls)
        return
    with pytest.raises(BundleError) as caught:
        run.run(plan, targets)
    assert all(piece in caught.value.message for piece in case["error"])
    assert calls == case.get("calls", [])


@each_case
def test_a_plan_is_rehearsed_without_its_graphs(case: dict[str, Any]) -> None:
    run = Rehearsal("here", refuse_part, lambda name: b"", start_values(case), parts=read_parts())
    plan, targets = read_plan(case["plan"]), [*case["expected"]]
    if "error" in case:
        with pytest.raises(BundleError) as caught:
            run.run(plan, targets)
        assert (caught.value.code, all(piece in caught.value.message for piece in case["error"])) == ("refused", True)
        return
    run.run(plan, targets)
    for name, shape in case["rehearsed"].items():
        value = run.values.read(name)
        assert isinstance(value, Unknown) if shape is None else [*value.shape] == shape
    assert run.steps == sum(case.get("iterations", []))


def run_open(case: dict[str, Any], calls: list[str]) -> dict[str, Any]:
    sources = {name: name for name in case["expected"]}
    run = OpenRun(None, make_run(case, calls), read_plan(case["plan"]), sources, {}, nullcontext())
    run.run_to_loop()
    while not run.done:
        while run.run_to_part() is not None:
            pass
    assert run.count == run.total == sum(case.get("iterations", []))
    return run.finish()


@each_case
def test_a_plan_is_held_open_between_iterations(case: dict[str, Any]) -> None:
    calls: list[str] = []
    if "error" not in case:
        check(case, run_open(case, calls), calls)
        return
    with pytest.raises(BundleError) as caught:
        run_open(case, calls)
    assert all(piece in caught.value.message for piece in case["error"])

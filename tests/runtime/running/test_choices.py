"""Choices of a bundle's plan: the runtime runs only the operations of the branch that is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.choice_words import CHOOSE
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import Computation
from guidegraph_runtime.running.operation_order import schedule_operations
from guidegraph_runtime.running.rehearse import UNKNOWN, Rehearsal
from guidegraph_runtime.running.values import Values


def part(name: str, reads: str, gives: str) -> Operation:
    return Operation("part", name, {reads: reads}, {}, (gives,))


def choice(node: str, when: str | None, of: Mapping[str, str], **settings: Any) -> Operation:
    inputs = {source: source for source in of.values()} | ({"when": when} if when is not None else {})
    branches = {label: {"from": {node: source}} for label, source in of.items()}
    return Operation(CHOOSE, node, inputs, {"of": branches, **settings}, (node,))


class Run(Computation):
    """A run whose parts add one, and which notes them."""

    def __init__(self, **values: Any) -> None:
        self.ran: list[str] = []
        super().__init__("here", self._add_one, lambda name: b"", Values(values))

    def _add_one(self, name: str, inputs: Mapping[str, Any], /) -> Mapping[str, Any]:
        self.ran.append(name)
        (value,) = inputs.values()
        return {gives[name]: value + 1}

    def take(self, plan: list[Operation], *targets: str) -> list[Any]:
        self.run(plan, targets)
        return [self.values.read(name) for name in targets]


gives = {"first": "a", "second": "b", "third": "c", "last": "d", "flag": "flag"}

PLAN = [
    part("first", "x", "a"),
    part("second", "x", "b"),
    part("third", "b", "c"),
    choice("either", "mode", {"a": "a", "otherwise": "c"}),
    part("last", "either", "d"),
]


def test_only_the_operations_of_the_taken_branch_run() -> None:
    run = Run(x=np.float32(1), mode="a")
    assert (run.take(PLAN, "d"), run.ran) == ([3], ["first", "last"])
    run = Run(x=np.float32(1), mode="another")
    assert (run.take(PLAN, "d"), run.ran) == ([4], ["second", "third", "last"])


def test_other_targets_run_too() -> None:
    run = Run(x=np.float32(1), mode="a")
    assert run.take(PLAN, "d", "b") == [3, 2]
    assert sorted(run.ran) == ["first", "last", "second"]


def test_the_selector_of_a_choice_is_computed_before_its_branches() -> None:
    plan = [*PLAN[:3], part("flag", "y", "flag"), choice("either", "flag", {"1": "a", "2": "c"}), PLAN[4]]
    run = Run(x=np.float32(1), y=np.array([1]))
    assert (run.take(plan, "d"), run.ran) == ([4], ["flag", "second", "third", "last"])


def test_a_nested_choice_is_made_where_its_branch_is_taken() -> None:
    plan = [*PLAN[:3], choice("inner", "deep", {"true": "a"}), choice("either", "mode", {"a": "inner", "c": "c"})]
    run = Run(x=np.float32(1), mode="c", deep="no such branch")
    assert (run.take(plan, "either"), run.ran) == ([3], ["second", "third"])
    run = Run(x=np.float32(1), mode="a", deep=np.bool_(True))
    assert (run.take(plan, "either"), run.ran) == ([2], ["first"])


def test_a_loop_chooses_in_each_iteration() -> None:
    either = choice("either", "i", {"1": "b", "otherwise": "a"})
    body = (part("first", "carry", "a"), part("second", "carry", "b"), either)
    links = {"next": {"carry": "either"}, "collect": {"all": "either"}, "result": {"end": "carry"}}
    loop = Operation("loop", "loop", {"carry": "x"}, {"over": 3, "index": "i", **links}, ("end", "all"), body)
    run = Run(x=np.float32(0))
    end, collected = run.take([loop], "end", "all")
    assert (end, collected.tolist(), run.ran) == (3, [1, 2, 3], ["first", "second", "first"])


def test_plain_values_are_chosen_too() -> None:
    operation = Operation(CHOOSE, "c", {"when": "mode"}, {"of": {"a": {"is": "text"}, "b": {"is": True}}}, ("c",))
    assert Run(mode="a").take([operation], "c") == ["text"]
    assert Run(mode="b").take([operation], "c") == [True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a choice needs one value"),
        ({"when": "a", "of": {}}, "has its branches by value"),
        ({"when": "a", "of": {"a": {"from": {"c": 3}}}}, "branch 'a' of a choice names values"),
        ({"when": "a", "of": {"a": {"from": {"d": "x"}}}}, r"gives \['d'\], not \['c'\]"),
        ({"when": "a", "of": {"a": {"is": 1}}, "more": 1}, "no setting 'more'"),
        ({"when": 1.5, "of": {"a": {"is": 1}}}, "made by a text, a whole number"),
        ({"when": "b", "of": {"a": {"is": 1}}}, r"c \(choose\): no branch 'b'; there is: a"),
    ],
)
def test_an_incomplete_choice_is_refused(settings: dict[str, Any], message: str) -> None:
    operation = Operation(CHOOSE, "c", settings=settings, outputs=("c",))
    with pytest.raises(ValueError, match=message):
        list(schedule_operations([operation], ["c"], Values()))
    with pytest.raises(BundleError, match=message):
        Run().take([operation], "c")


def test_a_rehearsal_looks_at_the_branch_that_is_taken() -> None:
    def noise(node: str, rows: int) -> Operation:
        return Operation("noise.gaussian", node, {}, {"seed": 0, "shape": [4, 16, 16], "batch": rows}, (node,))

    plan = [noise("a", 1), noise("b", 10**9), choice("either", "mode", {"small": "a", "large": "b"})]

    def rehearse(mode: Any) -> Any:
        rehearsal = Rehearsal("here", gives.__getitem__, lambda name: b"", Values(mode=mode), limit=10**6)  # type: ignore[arg-type]
        rehearsal.run(plan, ["either"])
        return rehearsal.values.read("either")

    assert rehearse("small").shape == (1, 4, 16, 16)
    with pytest.raises(BundleError, match=r"refused: b \(noise\.gaussian\)"):
        rehearse("large")
    with pytest.raises(BundleError, match=r"refused: either \(choose\): no branch 'huge'"):
        rehearse("huge")
    assert rehearse(UNKNOWN) is UNKNOWN

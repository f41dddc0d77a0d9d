"""Sibling calls as one: what can be joined, with known sizes and with sizes that are not inspected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.graph.execution.call import KeptJoins, Sizes, call_as_batch
from guidegraph.graph.export.partition.subgraph import SymbolicSizes
from guidegraph.graph.types import register_structured, structured

calls: list[tuple[Any, ...]] = []

BOTH = pytest.mark.parametrize("sizes", [Sizes(), SymbolicSizes()], ids=["known", "symbolic"])


def add(x: torch.Tensor, shift: Any = 0.0, *, y: Any = 0.0) -> torch.Tensor:
    calls.append((x, shift, y))
    result: torch.Tensor = x + shift + y
    return result


def join(arguments: list[Any], named: list[dict[str, Any]], sizes: Sizes, *ports: int | str) -> list[Any] | None:
    calls.clear()
    return call_as_batch(add, list(zip(arguments, named, strict=True)), ports, sizes)


def filled(rows: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((rows, 3), value, dtype=dtype)


@BOTH
def test_calls_are_joined_and_single_rows_expanded(sizes: Sizes) -> None:
    named = [{"y": filled(1, 10.0)}, {"y": filled(1, 20.0)}]
    results = join([[filled(2, 1.0)], [filled(2, 2.0)]], named, sizes, 0, "y")
    assert results is not None
    assert [result.tolist() for result in results] == [[[11.0] * 3] * 2, [[22.0] * 3] * 2]
    assert [tuple(x.shape) for x, _, _ in calls] == [(4, 3)]


def test_batches_of_different_known_sizes_are_joined() -> None:
    results = join([[filled(1, 1.0)], [filled(3, 2.0)]], [{}, {}], Sizes(), 0)
    assert results is not None
    assert [tuple(result.shape) for result in results] == [(1, 3), (3, 3)]


@BOTH
@pytest.mark.parametrize(
    "second",
    [filled(2, 2.0, torch.float64), torch.ones(2, 4), torch.ones(2, 3, 1), [filled(2, 2.0)], 2.0],
    ids=["dtype", "size", "rank", "structure", "no tensor"],
)
def test_unlike_arguments_are_not_joined(sizes: Sizes, second: Any) -> None:
    assert join([[filled(2, 1.0)], [second]], [{}, {}], sizes, 0) is None
    assert calls == []


@BOTH
@pytest.mark.parametrize("values", [(1.0, 2.0), (1, True), (1, 1.0)], ids=repr)
def test_plain_values_are_joined_only_if_equal_and_of_one_type(sizes: Sizes, values: tuple[Any, Any]) -> None:
    arguments = [[filled(2, 1.0), value] for value in values]
    assert join(arguments, [{}, {}], sizes, 0, 1) is None
    same = [[filled(2, 1.0), values[0]], [filled(2, 1.0), values[0]]]
    results = join(same, [{}, {}], sizes, 0, 1)
    assert results is not None
    assert len(calls) == 1


@BOTH
def test_arrays_are_joined_only_if_they_are_the_same_object(sizes: Sizes) -> None:
    shift = np.ones(3, np.float32)
    assert join([[filled(2, 1.0), shift], [filled(2, 1.0), shift.copy()]], [{}, {}], sizes, 0, 1) is None
    assert calls == []


@BOTH
def test_calls_with_an_entry_for_each_sample_outside_the_batchable_ports_stay_apart(sizes: Sizes) -> None:
    arguments = [[filled(2, 1.0)], [filled(2, 2.0)]]
    assert join(arguments, [{"y": torch.tensor([[1.0], [2.0]])}] * 2, sizes, 0) is None
    assert join([[x, torch.ones(2, 1)] for (x,) in arguments], [{}, {}], sizes, 0) is None
    for shared in (torch.ones(1), torch.ones(3), torch.tensor(1.0)):
        results = join(arguments, [{"y": shared}] * 2, sizes, 0)
        assert results is not None
        assert [result.tolist() for result in results] == [[[2.0] * 3] * 2, [[3.0] * 3] * 2]
    single = join([[filled(1, 1.0)], [filled(1, 2.0)]], [{"y": torch.ones(1)}] * 2, sizes, 0)
    assert single is not None


@BOTH
def test_calls_without_a_tensor_are_not_joined(sizes: Sizes) -> None:
    assert join([[1.0], [1.0]], [{}, {}], sizes, 0) is None
    assert join([[], []], [{}, {}], sizes) is None


def test_an_output_off_the_batch_axis_is_an_error() -> None:
    arguments: list[Any] = [([filled(2, 1.0)], {}), ([filled(2, 2.0)], {})]
    with pytest.raises(ValueError, match=r"expected leading size 4, found shape \(3,\)"):
        call_as_batch(lambda x: x.sum(0), arguments, [0], Sizes())


@structured
@dataclass(frozen=True)
class Pair:
    value: torch.Tensor
    kind: str


@BOTH
def test_structured_results_are_split_by_leaf(sizes: Sizes) -> None:
    register_structured()
    arguments: list[Any] = [([filled(2, 1.0)], {}), ([filled(2, 2.0)], {})]
    results = call_as_batch(lambda x: Pair(x * 2, "eps"), arguments, [0], sizes)
    assert results is not None
    assert [(pair.value.tolist(), pair.kind) for pair in results] == [
        ([[2.0] * 3] * 2, "eps"),
        ([[4.0] * 3] * 2, "eps"),
    ]


class SeenArguments:
    """A function of two arguments that keeps the second of each call."""

    def __init__(self) -> None:
        self.shifts: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        self.shifts.append(shift)
        return x + shift


def run_iterations(shifts: list[list[torch.Tensor]], kept: KeptJoins) -> tuple[list[list[Any]], list[torch.Tensor]]:
    """The results of two sibling calls in each iteration, and the shifts that the joined calls were given."""
    function, results = SeenArguments(), []
    for iteration in shifts:
        siblings: list[Any] = [([filled(2, 1.0), shift], {}) for shift in iteration]
        joined = call_as_batch(function, siblings, [0, 1], Sizes(), kept)
        assert joined is not None
        results.append([result[:, 0].tolist() for result in joined])
    return results, function.shifts


@torch.no_grad()
def test_what_stays_the_same_in_a_loop_is_joined_once() -> None:
    same = [filled(1, 1.0), filled(1, 2.0)]
    kept: KeptJoins = {}
    results, shifts = run_iterations([same, same, same], kept)
    assert results == [[[2.0] * 2, [3.0] * 2]] * 3
    assert shifts[0] is shifts[1] is shifts[2]
    assert kept[0] is None, "x is new in each iteration"


@torch.no_grad()
def test_what_changes_in_a_loop_is_joined_again() -> None:
    first, second = filled(1, 1.0), filled(1, 2.0)
    kept: KeptJoins = {}
    assert run_iterations([[first, second]], kept)[0] == [[[2.0] * 2, [3.0] * 2]]
    second.fill_(5.0)
    assert run_iterations([[first, second]], kept)[0] == [[[2.0] * 2, [6.0] * 2]]
    assert run_iterations([[first, filled(1, 7.0)]], kept)[0] == [[[2.0] * 2, [8.0] * 2]]
    assert run_iterations([[first, filled(2, 7.0)]], kept)[0] == [[[2.0] * 2, [8.0] * 2]]


@torch.no_grad()
def test_a_joined_value_that_a_call_changes_in_place_is_joined_again() -> None:
    def double(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return x + shift.mul_(2)

    shifts = [filled(1, 1.0), filled(1, 2.0)]
    kept: KeptJoins = {}
    for _ in range(3):
        siblings: list[Any] = [([filled(2, 1.0), shift], {}) for shift in shifts]
        results = call_as_batch(double, siblings, [0, 1], Sizes(), kept)
        assert results is not None
        assert [result[:, 0].tolist() for result in results] == [[3.0] * 2, [5.0] * 2]


@torch.no_grad()
def test_lists_whose_entries_are_replaced_are_joined_again() -> None:
    lists = [[filled(1, 1.0)], [filled(1, 2.0)]]
    kept: KeptJoins = {}
    for value in (2.0, 5.0):
        lists[1][0] = filled(1, value)
        siblings: list[Any] = [([filled(2, 1.0), entries], {}) for entries in lists]
        results = call_as_batch(lambda x, shifts: x + shifts[0], siblings, [0, 1], Sizes(), kept)
        assert results is not None
        assert results[1][:, 0].tolist() == [1.0 + value] * 2


def test_each_iteration_with_gradients_joins_for_itself() -> None:
    same = [filled(1, 1.0).requires_grad_(), filled(1, 2.0).requires_grad_()]
    _, shifts = run_iterations([same, same], {})
    assert shifts[0] is not shifts[1]
    for shift in shifts:
        shift.sum().backward()  # which fails the second time on a shared graph
    assert same[0].grad is not None

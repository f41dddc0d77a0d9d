"""Leaves and structures of values are those of torch's pytrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidegraph.graph.execution.loop import stack
from guidegraph.graph.types import register_structured, structured
from guidegraph.graph.values.serialise import flatten, unflatten


@structured
@dataclass(frozen=True, eq=False)
class Level:
    value: torch.Tensor
    kind: str = "eps"
    extra: Any = None


def tensor() -> torch.Tensor:
    return torch.ones(2, 3)


VALUES = [
    tensor(),
    torch.nn.Parameter(tensor()),
    Level(tensor(), "v", tensor()),
    Level(torch.nn.Parameter(tensor())),
    Level(tensor(), "x0", [tensor(), {"a": tensor()}]),
    Level(tensor(), "x0", Level(tensor())),
    (tensor(), [1.5, "text"]),
    2.5,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_rebuilt_from_its_leaves(value: Any) -> None:
    register_structured()
    leaves, structure = flatten(value)
    expected = tree_leaves(value)
    assert [id(leaf) for leaf in leaves if leaf is not None] == [id(leaf) for leaf in expected if leaf is not None]
    rebuilt = unflatten(leaves, structure)
    assert type(rebuilt) is type(value)
    assert [id(leaf) for leaf in tree_leaves(rebuilt)] == [id(leaf) for leaf in expected]


def test_values_of_one_class_have_equal_structures() -> None:
    register_structured()
    _, first = flatten(Level(tensor()))
    _, second = flatten(Level(torch.nn.Parameter(tensor()), "v"))
    assert first == second
    assert first != flatten(tensor())[1]


@pytest.mark.parametrize("value", [value for value in VALUES if isinstance(value, (torch.Tensor, Level))])
def test_equal_structures_are_stacked_leaf_by_leaf(value: Any) -> None:
    register_structured()
    stacked = stack([value, value, value])
    assert type(stacked) in (type(value), torch.Tensor)
    for leaf, expected in zip(tree_leaves(stacked), tree_leaves(value), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(leaf, torch.stack([expected] * 3), rtol=0, atol=0)
        else:
            assert leaf == expected


def test_structures_with_other_leaves_stay_a_list() -> None:
    register_structured()
    for other in (Level(tensor(), "v"), Level(torch.ones(3, 3)), Level(tensor(), extra=tensor()), tensor(), 2.5):
        values = [Level(tensor()), other]
        assert stack(values) is values


@dataclass(frozen=True)
class Plain:
    """A value of a class that the engine does not know."""

    value: Any


@pytest.mark.parametrize("make", [np.ones, torch.ones], ids=["array", "tensor"])
def test_objects_that_hold_arrays_do_not_stack_and_stay_a_list(make: Any) -> None:
    values = [Plain(make(3)), Plain(make(3))]
    stacked = stack(values)
    assert [value.value is other.value for value, other in zip(stacked, values, strict=True)] == [True, True]


def test_equal_objects_beside_a_tensor_stack_and_unequal_ones_do_not() -> None:
    register_structured()
    equal = stack([Level(tensor(), "v", Plain(2)), Level(tensor(), "v", Plain(2))])
    assert (equal.value.shape, equal.extra) == ((2, 2, 3), Plain(2))
    unequal = [Level(tensor(), "v", Plain(np.ones(2))), Level(tensor(), "v", Plain(np.ones(2)))]
    assert stack(unequal) is unequal

"""Leaves and structures of values are those of torch's pytrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidegraph.graph.types import register_structured, structured
from guidegraph.graph.values.leaves import flatten, unflatten


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

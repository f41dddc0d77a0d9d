"""The values that a node may return for its annotation, including numbers and sequences of other libraries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from guidegraph.graph.types import to_port_type
from guidegraph.graph.values.output_check import make_output_check
from guidegraph.graph.values.ownership import copy_value


class Rows(Dataset[int]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, np.int64(2)),
        (float, np.float32(2)),
        (float, 2),
        (bool, np.bool_(True)),
        (float, torch.tensor(3.0)),
        (Sequence[int], Rows()),
        (Sequence[float], np.ones(3)),
        (Sequence[float], torch.ones(3)),
        (list[str], {"a": 1}.keys()),
        (Iterable[int], iter([1, 2])),
    ],
)
def test_what_other_libraries_give_fits(annotation: Any, value: Any) -> None:
    fits = make_output_check(to_port_type(annotation))
    assert fits is not None
    assert fits(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2.5),
        (int, "2"),
        (float, True),
        (float, np.ones(2)),
        (Sequence[int], "12"),
        (Sequence[int], 3),
        (str, None),
    ],
)
def test_what_does_not_fit_is_told(annotation: Any, value: Any) -> None:
    fits = make_output_check(to_port_type(annotation))
    assert fits is not None
    assert not fits(value)


def test_the_tuples_of_torch_are_copied() -> None:
    actual = torch.max(torch.ones(2, 3), 1)
    copied = copy_value(actual)
    assert type(copied) is type(actual)
    copied.values.zero_()
    assert actual.values.sum() == 2


def test_a_value_nested_too_deeply_is_no_internal_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        copy_value(value)

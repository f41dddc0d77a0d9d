"""Constant numbers in the tables of a bundle."""

from __future__ import annotations

import pytest

from guidegraph.graph.export.partition.example_values import ExampleValues
from guidegraph.graph.sources import Literal


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.1, "float64"), (-3, "int64"), (2**63 - 1, "int64"), (2**64 - 1, "uint64")]
)
def test_a_constant_number_keeps_its_value(value: float, dtype: str) -> None:
    examples = ExampleValues({})
    table = examples.host.tables[examples.value_names(Literal(value))[""]].numpy()
    assert (table.item(), table.dtype) == (value, dtype)

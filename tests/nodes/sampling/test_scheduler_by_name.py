"""A sampler chosen by name equals the sampler's own node."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.nodes.sampling import scheduler
from guidegraph.nodes.sampling.scheduler_by_name import SamplerName, sampler_by_name
from tests.nodes.sampling.closed_form import scaled_linear


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_a_sampler_by_name_has_the_rows_of_its_node(name: str) -> None:
    actual = sampler_by_name(scaled_linear(), sampler=name, steps=7)
    expected = getattr(scheduler, name)(scaled_linear(), steps=7)
    assert torch.equal(actual.scheduler.matrix, expected.scheduler.matrix)
    assert torch.equal(actual.steps, expected.steps)


def test_every_sampler_has_its_name() -> None:
    nodes = {value.__name__ for value in vars(scheduler).values() if hasattr(value, SPEC_ATTRIBUTE)}
    assert nodes == set(get_args(SamplerName))

"""Watched sizes: values that are measured later give the warnings of those measured at once."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guidegraph.graph.errors import Mark
from guidegraph.graph.execution.watched_sizes import KEPT_BYTES, MOST_KEPT_BYTES, LoopWatch
from guidegraph.graph.ir import Call
from guidegraph.graph.node import get_spec
from guidegraph.nodes.sampling.scheduler_step import step

CALL = Call("step", get_spec(step), {}, {}, Mark("w.yaml", 3, 5))


def largest(value: Tensor) -> Tensor:
    return value.flatten(1).amax(1)


def list_warnings(values: list[Tensor], later: bool) -> list[str]:
    watch = LoopWatch(set(), call=CALL)
    for watch.iteration, value in enumerate(values):
        if later:
            watch.add(value, 1.0, "the size is {size:.3g}", None, largest)
        else:
            watch.add(largest(value), 1.0, "the size is {size:.3g}", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.finish(len(values))
    return [str(warning.message) for warning in caught]


def rise(count: int, *shape: int) -> list[Tensor]:
    """Values of which the second half is above the limit, in the last sample alone."""
    values = [torch.zeros(2, *shape) for _ in range(count)]
    for i in range(count // 2, count):
        values[i][-1].fill_(10.0 + i)
    return values


@pytest.mark.parametrize(
    "values",
    [
        rise(6, 3),
        rise(6, KEPT_BYTES // 4),
        rise(40, KEPT_BYTES // 8),
        [*rise(3, 3), *rise(4, 5)],
        [*rise(3, 3), *rise(2, KEPT_BYTES), *rise(4, 3)],
        [*rise(3, 3), *[value.double() for value in rise(4, 3)]],
        rise(1, 3),
        [torch.full((1, 2), torch.nan)],
    ],
    ids=["small", "large", "many", "two shapes", "small and large", "two dtypes", "one", "NaN"],
)
def test_values_that_are_measured_later_give_the_same_warnings(values: list[Tensor]) -> None:
    messages = list_warnings(values, later=True)
    assert messages == list_warnings(values, later=False)
    assert len(messages) == 1


def test_values_are_kept_up_to_a_number_of_bytes() -> None:
    watch = LoopWatch(set(), call=CALL)
    for _ in range(3 * MOST_KEPT_BYTES // KEPT_BYTES):
        watch.add(torch.zeros(1, KEPT_BYTES // 4), 1.0, "", None, largest)
        assert sum(value.nbytes for value in watch.watched["step"].waiting) <= MOST_KEPT_BYTES
    watch = LoopWatch(set(), call=replace(CALL, key="large"))
    watch.add(torch.zeros(1, KEPT_BYTES), 1.0, "", None, largest)
    assert watch.watched["large"].waiting[0].shape == (1,)


def test_a_value_that_records_gradients_is_kept_without_them() -> None:
    watch = LoopWatch(set(), call=CALL)
    watch.add(torch.ones(1, 3, requires_grad=True) * 2, 1.0, "", None, largest)
    assert not watch.watched["step"].waiting[0].requires_grad


def test_a_subclass_of_tensor_is_measured_at_once() -> None:
    class OfADevice(Tensor):
        """Its ``measure`` may be another one, such as that of a graph."""

    watch = LoopWatch(set(), call=CALL)
    for _ in range(2):
        watch.add(torch.zeros(2, 3).as_subclass(OfADevice), 1.0, "", None, lambda value: largest(value).amax())
    assert [size.shape for size in watch.watched["step"].waiting] == [(), ()]
    watch.finish(2)

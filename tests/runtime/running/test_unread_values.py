"""Values that a loop does not read under a flag are not computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import Computation

UNREAD: Any = {"sample.body.fresh": {"field": "table.noisy", "is": False}}


def plan(unread: Any = UNREAD, *more: Operation, collect: str | None = None) -> list[Operation]:
    """A loop of two iterations: noise like the carry, and a part that takes both."""
    fresh = Operation(
        "noise.gaussian", "sample.body.fresh", {"like": "sample.x", "index": "sample.index"}, {}, ("sample.body.fresh",)
    )
    part = Operation(
        "part",
        "sample.step",
        {"x": "sample.x", "fresh": "sample.body.fresh"},
        {"unread": unread} if unread is not None else {},
        ("step.x",),
    )
    settings: dict[str, Any] = {"over": 2, "item": "sample.t", "index": "sample.index"}
    settings |= {"next": {"sample.x": "step.x"}, "result": {"x": "sample.x"}}
    settings |= {"collect": {"kept": collect}} if collect else {}
    return [Operation("loop", "sample", {"sample.x": "start"}, settings, ("x",), (fresh, part, *more))]


def draw_noise(operations: list[Operation], **flags: Any) -> list[np.ndarray[Any, Any]]:
    """The noise that the part is given in each iteration."""
    taken: list[np.ndarray[Any, Any]] = []

    def part(name: str, inputs: Any) -> dict[str, Any]:
        taken.append(inputs["fresh"])
        return {"step.x": inputs["x"]}

    run = Computation("here", part, lambda name: b"")
    run.values.update({"start": np.ones((2, 3, 4, 5), np.float32), **flags})
    run.run(operations)
    return taken


def test_zeros_of_its_shape_stand_in_while_the_flag_holds() -> None:
    taken = draw_noise(plan(), **{"table.noisy": False})
    assert [array.shape for array in taken] == [(2, 3, 4, 5)] * 2
    assert not any(array.any() for array in taken)


@pytest.mark.parametrize("flags", [{"table.noisy": True}, {}])
def test_a_value_is_computed_if_the_flag_differs_or_is_unknown(flags: dict[str, Any]) -> None:
    first, second = draw_noise(plan(), **flags)
    assert first.any()
    assert not np.array_equal(first, second)


def test_a_flag_that_the_host_computed_as_numpys_bool_counts_too() -> None:
    assert not draw_noise(plan(), **{"table.noisy": np.bool_(False)})[0].any()


@pytest.mark.parametrize(
    "operations",
    [
        plan(None),
        plan(collect="sample.body.fresh"),
        plan(UNREAD, Operation("tensor.cat", "both", {"tensors.0": "sample.body.fresh"}, {}, ("both",))),
    ],
    ids=["no flags", "collected", "read by another operation"],
)
def test_a_value_with_another_reader_is_computed(operations: list[Operation]) -> None:
    assert all(array.any() for array in draw_noise(operations, **{"table.noisy": False}))


@pytest.mark.parametrize("unread", [3, {"sample.body.fresh": 1}, {"sample.body.fresh": {"field": "a", "is": 0}}])
def test_flags_that_are_none_are_refused(unread: Any) -> None:
    with pytest.raises(BundleError, match="'unread' of a part"):
        draw_noise(plan(unread))

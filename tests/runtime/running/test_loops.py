"""The number of a loop's iterations in a bundle's run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import Computation
from guidegraph_runtime.running.rehearse import Rehearsal
from guidegraph_runtime.running.values import Values

LINKS: dict[str, Any] = {"next": {"x": "y"}, "collect": {"path": "y"}, "result": {"last": "x"}}
BODY = (Operation("part", "step", {"x": "x"}, {}, ("y",)),)
KINDS = pytest.mark.parametrize("kind", [Computation, Rehearsal])


def run_loop(kind: type[Computation], over: str | int, **values: Any) -> Values:
    """The values after a loop whose part adds one."""
    memory = Values({"start": np.zeros(2, np.float32)} | {f"params.{name}": value for name, value in values.items()})
    loop = Operation("loop", "sample", {"x": "start"}, {"over": over, **LINKS}, ("last", "path"), BODY)
    kind("here", lambda part, inputs: {"y": inputs["x"] + 1}, lambda name: b"", memory).run([loop])
    return memory


@KINDS
@pytest.mark.parametrize(("over", "param"), [("params.steps", "steps"), (-1, None)])
def test_a_negative_number_of_iterations_is_refused(
    kind: type[Computation], over: str | int, param: str | None
) -> None:
    with pytest.raises(BundleError, match=r"sample \(loop\): expected 0 or more iterations; found -1") as caught:
        run_loop(kind, over, steps=-1)
    assert caught.value.param == param


@KINDS
def test_a_number_without_axes_counts_iterations(kind: type[Computation]) -> None:
    assert "last" in run_loop(kind, "params.steps", steps=np.array(3))
    with pytest.raises(BundleError, match="expected 0 or more iterations; found -1"):
        run_loop(kind, "params.steps", steps=np.array(-1))


def test_values_collected_over_no_iterations_are_empty() -> None:
    path = run_loop(Computation, 0).read("path")
    assert (path.shape, path.dtype) == ((0,), np.float32)

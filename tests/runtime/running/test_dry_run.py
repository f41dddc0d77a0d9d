"""A dry run finds wrong settings of every operation, also of those that it does not compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.dry_run import UNKNOWN, DryRun
from guidegraph_runtime.running.values import Values


def rehearse(operation: Operation, **values: Any) -> DryRun:
    run = DryRun("here", {}.__getitem__, lambda name: b"", Values(values), limit=10**6)
    run.run([operation])
    return run


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Operation("noise.gaussian", "a", {}, {"shape": [4], "rng": "xor"}, ("a",)), "rng: expected .*found str 'xor'"),
        (Operation("image.grid", "a", {"image": "picture"}, {"gap": -1}, ("a",)), "gap: expected .*found int -1"),
        (Operation("semantic.load", "a", {}, {"path": "map.png", "classes": "x"}, ("a",)), "classes: expected"),
    ],
)
def test_a_wrong_setting_is_refused(operation: Operation, message: str) -> None:
    with pytest.raises(BundleError, match=rf"here: refused: a \({operation.op}\): {message}"):
        rehearse(operation, picture=UNKNOWN)


def test_a_sampler_with_a_step_for_each_timestep_is_admitted() -> None:
    schedule = {"schedule.alphas_bar": "alphas_bar"}
    run = rehearse(Operation("scheduler.ddpm", "s", schedule, {}, ("s.steps",)), alphas_bar=np.array([0.9, 0.6, 0.3]))
    assert len(run.memory.read("s.steps")) == 3

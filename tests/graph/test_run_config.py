"""The settings of a run are plain data, and are checked when they are made."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.limits import Limits, enforce_limits
from guidegraph.graph.trust.policy import Grants, Policy

CONFIG = RunConfig(
    "cuda:1",
    "bfloat16",
    frozenset({"prune", "batch"}),
    ["image"],
    Path("cache"),
    6 * 10**9,
    Policy(True, Path("out"), Grants(read=(Path("a"),)), frozenset({"photo"})),
    Limits(trips=7),
    "onnx",
    "sample:20",
)


def test_they_are_the_same_in_another_process() -> None:
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG


def test_the_record_has_all_but_permissions_and_limits() -> None:
    assert CONFIG.to_json() == {
        "device": "cuda:1",
        "dtype": "bfloat16",
        "passes": ["batch", "prune"],
        "cache": "cache",
        "cache_verify": None,
        "memory_budget": 6 * 10**9,
        "accelerate": "onnx",
        "stop_at": "sample:20",
        "only": ["image"],
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "there is no dtype 'int8' for a run; dtypes: float32, float64, float16, bfloat16"),
        ({"accelerate": "openvino"}, "there is no accelerator 'openvino'; accelerators: onnx, compile"),
        (
            {"passes": frozenset({"prune", "fold"})},
            "unknown passes fold; passes: skip, hoist, merge, prune, precompute, batch",
        ),
    ],
)
def test_unknown_names_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)


def test_the_limits_are_those_in_force() -> None:
    with enforce_limits(Limits(trips=5)):
        config = RunConfig()
    assert config.limits.trips == 5


def test_a_budget_needs_another_device_than_the_cpu() -> None:
    assert CONFIG.budget_problem == ""
    assert RunConfig().budget_problem == ""
    assert "this run is on the CPU" in RunConfig("cpu:0", memory_budget=1).budget_problem

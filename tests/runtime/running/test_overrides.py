"""Overrides of settings and operations for the nodes of a bundle's plan."""

from __future__ import annotations

from typing import Any

import pytest

from guidegraph_runtime import BundleError
from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.running.overrides import find_alternatives, override_settings, settings_of

DDIM = Operation(
    "scheduler.ddim", "scheduler", {"schedule.alphas_bar": "table", "steps": "params.steps"}, {"eta": 0.5, "clip": True}
)
NOISE = Operation("noise.gaussian", "sample.body.fresh", {"seed": "params.seed"}, {"shape": [4, 8, 8]})
LOOP = Operation("loop", "sample", {}, {}, (), (Operation("part", "step"), NOISE))
PLAN = (DDIM, LOOP)


def override(**nodes: Any) -> tuple[Operation, ...]:
    return override_settings(PLAN, {name.replace("__", "."): value for name, value in nodes.items()}, "here")


def test_a_setting_takes_the_place_of_a_literal_or_of_a_link() -> None:
    (scheduler, loop) = override(scheduler__eta=0, scheduler__steps=9)
    assert scheduler.settings == {"eta": 0, "clip": True, "steps": 9}
    assert scheduler.inputs == {"schedule.alphas_bar": "table"}
    assert loop == LOOP


def test_a_replaced_operation_drops_settings_that_the_new_one_lacks() -> None:
    (scheduler, _) = override(scheduler__use="scheduler.deis", scheduler__spacing="trailing")
    assert scheduler.op == "scheduler.deis"
    assert scheduler.inputs == DDIM.inputs
    assert set(scheduler.settings) <= set(settings_of("scheduler.deis")) | {"spacing"}
    assert (scheduler.settings["clip"], scheduler.settings["spacing"]) == (True, "trailing")


def test_nodes_of_bodies_are_changed_too() -> None:
    (_, loop) = override_settings(PLAN, {"sample.body.fresh.shape": [4, 4, 4]}, "here")
    assert loop.body is not None
    assert [operation.settings for operation in loop.body] == [{}, {"shape": [4, 4, 4]}]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("step.scale", 2, "here: unknown-node: no host node 'step'; there is: scheduler, sample.body.fresh"),
        ("sample.over", 2, "here: unknown-node: no host node 'sample'"),
        (
            "scheduler.setps",
            2,
            "unknown-setting: scheduler (scheduler.ddim): no setting 'setps'; did you mean 'steps'?",
        ),
        ("scheduler.use", "scheduler.add_noise", "unknown-operation: scheduler: no 'scheduler.add_noise'; "),
        ("scheduler.use", "schedule.ddim", "did you mean 'scheduler.ddim'?"),
        ("scheduler", 3, "bad-setting: expected NODE.SETTING, such as scheduler.use, found 'scheduler'"),
        ("scheduler.use", 3, "unknown-operation: scheduler: no '3'"),
    ],
)
def test_an_unknown_name_is_reported_with_the_valid_ones(name: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError) as error:
        override_settings(PLAN, {name: value}, "here")
    assert message in str(error.value)


def test_only_operations_with_the_same_ports_and_outputs_are_alike() -> None:
    assert {"scheduler.heun", "scheduler.ddim", "scheduler.unipc"} <= set(find_alternatives("scheduler.ddpm"))
    assert find_alternatives("scheduler.add_noise") == ["scheduler.add_noise"]
    assert find_alternatives("none.such") == []

"""A dry run finds wrong settings of every operation, also of those that it does not compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Operation, Part, Tensor
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import refuse_part
from guidegraph_runtime.running.rehearse import UNKNOWN, Rehearsal
from guidegraph_runtime.running.values import Values


def rehearse(operation: Operation, **values: Any) -> Rehearsal:
    run = Rehearsal("here", {}.__getitem__, lambda name: b"", Values(values), limit=10**6)
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


def test_an_axis_that_no_value_has_is_of_size_1_and_must_be_a_multiple_too() -> None:
    part = Part("p.onnx", (Tensor("x", "float32", ("batch", 3, "height")),), (), {})
    operation = Operation("part", "p", {"x": "x"}, {"multiples": {"height": 4}}, ())
    for shape, size in (((1, 3, 6), 6), ((1, 3), 1), ((1,), 1)):
        run = Rehearsal("here", refuse_part, lambda name: b"", Values(x=np.zeros(shape)), parts={"p": part})
        with pytest.raises(BundleError, match=rf"'height': expected sides that are multiples of 4; found {size}:"):
            run.run([operation])
    Rehearsal("here", refuse_part, lambda name: b"", Values(x=np.zeros((1, 3, 8))), parts={"p": part}).run([operation])


def test_a_number_out_of_the_range_of_a_part_s_input_is_refused() -> None:
    part = Part("p.onnx", (Tensor("label", "int64", ("batch",)),), (), {})
    operation = Operation("part", "p", {"label": "params.label"}, {"ranges": {"label": {"low": 0, "high": 9}}}, ())

    def prepare(label: object) -> None:
        values = Values({"params.label": label})
        Rehearsal("here", refuse_part, lambda name: b"", values, parts={"p": part}).run([operation])

    prepare(np.array([0, 9]))
    message = r"p \(part\): 'label': expected numbers of at least 0 and at most 9; found 12"
    with pytest.raises(BundleError, match=message) as caught:
        prepare(np.array([3, 12]))
    assert caught.value.param == "label"


@pytest.mark.parametrize("bounds", [{}, {"low": "0"}, {"lowest": 0}, {"low": True}, 3])
def test_bounds_of_a_part_s_input_that_are_not_numbers_are_refused(bounds: Any) -> None:
    operation = Operation("part", "p", {"label": "label"}, {"ranges": {"label": bounds}}, ())
    with pytest.raises(BundleError, match="the bounds of 'label': expected numbers for low, above, high, below; found"):
        Rehearsal("here", refuse_part, lambda name: b"", Values(label=np.zeros(1))).run([operation])


@pytest.mark.parametrize(
    ("operation", "param"),
    [
        (Operation("noise.gaussian", "a", {}, {"shape": [4, 10**6], "batch": 2}, ("a",)), "a.shape"),
        (Operation("noise.gaussian", "a", {"batch": "params.n"}, {"shape": [4]}, ("a",)), "n"),
        (Operation("noise.gaussian", "a", {}, {"shape": [4], "rng": "xor"}, ("a",)), "a.rng"),
    ],
)
def test_the_setting_that_is_wrong_is_named(operation: Operation, param: str) -> None:
    run = Rehearsal("here", refuse_part, lambda name: b"", Values({"params.n": 10**6}), limit=10**6)
    with pytest.raises(BundleError) as caught:
        run.run([operation])
    assert caught.value.param == param


def test_a_sampler_with_a_step_for_each_timestep_is_admitted() -> None:
    schedule = {"schedule.alphas_bar": "alphas_bar"}
    run = rehearse(Operation("scheduler.ddpm", "s", schedule, {}, ("s.steps",)), alphas_bar=np.array([0.9, 0.6, 0.3]))
    assert len(run.values.read("s.steps")) == 3

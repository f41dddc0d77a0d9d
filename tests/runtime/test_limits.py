"""The limits stop a hostile bundle with a message, before it fills the memory or runs for hours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from guidegraph_runtime import Bundle
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.cli import main
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import UNLIMITED, Limits, enforce_limits
from guidegraph_runtime.sessions.call_limits import WATCH, call_for
from tests.must_end import must_end
from tests.runtime.running.bundles import FLOAT, external, in_body, model, write_bundle
from tests.runtime.running.loop_bundle import write_loop_bundle

X = np.ones((1, 4), np.float32)
ENDLESS = 2**63 - 1


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    # An alarm does not interrupt a call into onnxruntime, so no call may take its default limit of an hour.
    with must_end(60), enforce_limits(Limits(call_seconds=20)):
        yield


def whole(name: str, *values: int, dims: Sequence[int] | None = None) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)] if dims is None else dims, values)


def step(nodes: Sequence[NodeProto], *initializers: TensorProto) -> ModelProto:
    """The part of the bundle, with nodes that make y of x, and a use of its weights."""
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("scale", FLOAT, []),
    ]
    output = helper.make_tensor_value_info("y", FLOAT, ["batch", 4])
    weights = external("w", "step.onnx.data", [4], length=16)
    return model(helper.make_graph(list(nodes), "step", inputs, [output], [weights, *initializers]))


def loop(trips: str = "trips") -> NodeProto:
    """y = x + w + w + …"""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["before", "w"], ["after"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("before", FLOAT, ["batch", 4])],
        [value("on", TensorProto.BOOL, []), value("after", FLOAT, ["batch", 4])],
    )
    return helper.make_node("Loop", [trips, "", "x"], ["y"], name="turn", body=body)


def like_x(op: str, inputs: Sequence[str], **attributes: Any) -> list[NodeProto]:
    """Nodes that make something large, and y of its sum."""
    return [
        helper.make_node(op, inputs, ["large"], name="big", **attributes),
        helper.make_node("Cast", ["large"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["x", "sum"], ["weighted"]),
        helper.make_node("Add", ["weighted", "w"], ["y"]),
    ]


HUGE = whole("shape", 10**6, 10**6)
SHAPES: dict[str, tuple[list[NodeProto], list[TensorProto]]] = {
    "ConstantOfShape": (like_x("ConstantOfShape", ["shape"]), [HUGE]),
    "Expand": (like_x("Expand", ["scale", "shape"]), [HUGE]),
    "Tile": (like_x("Tile", ["x", "shape"]), [HUGE]),
    "Range": (
        like_x("Range", ["a", "b", "c"]),
        [whole("a", 0, dims=[]), whole("b", 10**12, dims=[]), whole("c", 1, dims=[])],
    ),
    "Pad": (like_x("Pad", ["x", "pads"]), [whole("pads", 0, 0, 10**12, 0)]),
    "RandomNormal": (like_x("RandomNormal", [], shape=[10**6, 10**6]), []),
    "of a node Constant": (
        [helper.make_node("Constant", [], ["shape"], value_ints=[10**6, 10**6]), *like_x("Expand", ["x", "shape"])],
        [],
    ),
    "of raw data": (
        like_x("Expand", ["x", "shape"]),
        [helper.make_tensor("shape", TensorProto.INT64, [2], np.array([10**6, 10**6]).tobytes(), raw=True)],
    ),
}


@pytest.mark.parametrize(("nodes", "initializers"), SHAPES.values(), ids=[*SHAPES])
def test_a_constant_that_makes_a_huge_tensor_is_refused(
    tmp_path: Path, nodes: list[NodeProto], initializers: list[TensorProto]
) -> None:
    path = write_bundle(tmp_path, step(nodes, *initializers))
    message = r"over-limit: the node \w+ 'big' makes 1,000,000,000,000 elements; the limit is 500,000,000.*elements="
    with pytest.raises(BundleError, match=message):
        open_bundle(path)


def test_a_huge_shape_in_a_branch_is_refused_too(tmp_path: Path) -> None:
    inner = helper.make_node("ConstantOfShape", ["shape"], ["y"], name="big")
    node = in_body(inner, [HUGE])
    true = helper.make_tensor("condition", TensorProto.BOOL, [], [True])
    with pytest.raises(BundleError, match="'big' makes 1,000,000,000,000 elements"):
        open_bundle(write_bundle(tmp_path, step([node], true)))


@pytest.mark.parametrize("trips", [ENDLESS, 10**8, None])
def test_an_endless_loop_in_a_part_is_refused(tmp_path: Path, trips: int | None) -> None:
    constants = [] if trips is None else [whole("trips", trips, dims=[])]
    path = write_bundle(tmp_path, step([loop("trips" if trips else "")], *constants))
    with pytest.raises(
        BundleError, match=r"over-limit: the node Loop 'turn' .*; the limit is 10,000,000.*--limit trips="
    ):
        open_bundle(path)


def test_an_endless_loop_that_was_let_through_is_ended_by_its_seconds(tmp_path: Path) -> None:
    path = write_bundle(tmp_path, step([loop()], whole("trips", ENDLESS, dims=[])))
    with (
        enforce_limits(Limits(trips=UNLIMITED, call_seconds=0.2)),
        pytest.raises(BundleError, match=r"limit-reached: the call took longer than the limit of 0.2 s.*call_seconds="),
    ):
        Bundle(path).run(x=X)


def test_an_endless_call_is_ended_when_nobody_waits_for_it(tmp_path: Path) -> None:
    path = write_bundle(tmp_path, step([loop()], whole("trips", ENDLESS, dims=[])))
    ended = Event()

    def end() -> None:
        ended.set()
        WATCH.end_unwanted()

    with enforce_limits(Limits(trips=UNLIMITED)):
        bundle = Bundle(path)
        timer = Timer(0.2, end)
        timer.start()
        with call_for(lambda: not ended.is_set()), pytest.raises(BundleError, match=r"cancelled: .*nobody waits"):
            bundle.run(x=X)


def test_a_loop_whose_trips_are_computed_is_ended_by_its_seconds(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["half", "half"], ["trips"]), loop()]
    path = write_bundle(tmp_path, step(nodes, whole("half", 2**31, dims=[])))
    bundle = Bundle(path)
    with enforce_limits(Limits(call_seconds=0.2)):
        for _ in range(2):  # a session that was ended goes on to work
            with pytest.raises(BundleError, match="limit-reached: the call took longer"):
                bundle.run(x=X)


def test_a_shape_that_is_computed_is_ended_by_the_memory(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["million", "million"], ["shape"]), *like_x("Expand", ["scale", "shape"])]
    path = write_bundle(tmp_path, step(nodes, whole("million", 10**6)))
    with pytest.raises(
        BundleError, match=r"needs-memory: the call needs more memory than the limit of .*memory_bytes="
    ):
        Bundle(path).run(x=X)


def test_a_tensor_of_more_elements_than_its_graph_has_bytes_is_refused(tmp_path: Path) -> None:
    lie = TensorProto(name="lie", data_type=FLOAT, dims=[10**5, 10**5], raw_data=b"\0" * 4)
    with pytest.raises(BundleError, match="a tensor of 100000×100000 elements in a graph of"):
        open_bundle(write_bundle(tmp_path, step(like_x("Identity", ["lie"]), lie)))


def change_loop(over: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        value["plan"][0]["with"]["over"] = over

    return change


@pytest.mark.parametrize("over", [10**12, 2**64])
def test_an_endless_loop_of_a_plan_is_refused_as_it_begins(tmp_path: Path, over: int) -> None:
    bundle = Bundle(write_bundle(tmp_path, change=change_loop(over)))
    with pytest.raises(BundleError, match=rf"over-limit: sample \(loop\): the loop takes {over:,} trips"):
        bundle.run(x=X)


@pytest.mark.parametrize(
    ("params", "nodes", "message"),
    [
        ({"batch": 10**11}, {}, r"noise \(noise.gaussian\): it would take at least 12 TB"),
        ({}, {"noise.shape": [2, 10**6, 10**6]}, r"noise \(noise.gaussian\): it would take at least"),
        ({"steps": 10**7}, {}, r"scheduler \(scheduler.ddim\): there are 10,000,000 steps; the limit is 100,000"),
    ],
)
def test_huge_settings_of_a_plan_are_refused(
    tmp_path: Path, params: dict[str, int], nodes: dict[str, Any], message: str
) -> None:
    bundle = Bundle(write_loop_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=rf"(over-limit|refused): {message}"):
        bundle.run_with(params, nodes=nodes)


def test_huge_tensors_as_inputs_are_refused_by_their_header(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "bundle"))
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 4)})
    with pytest.raises(BundleError, match="4,000,000,000 elements; the limit is 500,000,000"):
        bundle.run(x=header.getvalue())
    broad = np.broadcast_to(np.float32(0), (10**9, 4))
    with pytest.raises(BundleError, match="'x' is a tensor of 4,000,000,000 elements; the limit is"):
        bundle.run(x=broad)


def test_a_pipe_as_an_input_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    bundle = Bundle(write_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=r"'x': .*pipe' cannot be read: expected a regular file, found a named pipe"):
        bundle.run(x=tmp_path / "pipe")
    with pytest.raises(BundleError, match=r"bad-lora: .*found a named pipe|is not a \.safetensors file"):
        bundle.run_with({"x": X}, lora=tmp_path / "pipe")


def test_the_files_of_a_bundle_are_limited_together(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    size = sum(file["size"] for file in json.loads((path / "bundle.json").read_bytes())["files"].values())
    with enforce_limits(Limits(file_bytes=size - 1)), pytest.raises(BundleError, match=f"--limit file_bytes={size}"):
        open_bundle(path)


def test_the_command_takes_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_loop_bundle(tmp_path / "bundle")

    def run(*limits: str) -> tuple[int, str]:
        options = [part for limit in limits for part in ("--limit", limit)]
        with pytest.raises(SystemExit) as ended:
            main([str(path), "--out", str(tmp_path / "out"), "--quiet", *options])
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    assert run("trips=5") == (0, "")
    code, output = run("trips=4")
    assert code == 2
    message = "over-limit: sample (loop): the loop takes 5 trips, 5 with those around and before it; the limit is 4."
    assert message in output
    code, output = run("trip=4")
    assert code == 2
    assert output.startswith("--limit: bad-limit: there is no limit 'trip'; did you mean 'trips'? limits: nodes, ")
    code, output = run("seconds=0.000000001")
    assert (code, "limit-reached: the run took longer than the limit of 1e-09 s" in output) == (1, True)

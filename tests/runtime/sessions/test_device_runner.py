"""On a GPU the values of a run stay there: a loop uploads only new values in each step, and downloads none."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from guidegraph_runtime.bundle.onnx_graph import onnxruntime_release
from guidegraph_runtime.bundle.verify import VerifiedBundle, open_bundle
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.device_runner import MAX_SHAPES, CudaGraphs, DeviceRunner
from guidegraph_runtime.sessions.device_values import DeviceValue, to_host, to_placeholder
from guidegraph_runtime.sessions.sessions import Session, SessionSettings, make_session
from tests.runtime.lora.adaptable_bundle import write_adaptable_bundle, write_lora
from tests.runtime.running.bundles import FLOAT, WEIGHTS, inline_tensor, model, step_graph, write_bundle
from tests.runtime.running.loop_bundle import write_loop_bundle
from tests.runtime.sessions.fake_device import CUDA, FakeTensor, Log, fake_session

STEPS = 6
T, FRESH = 2 * 4, 2 * 2 * 3 * 5 * 4  # bytes of t (batch) and of the noise (batch, 2, 3, 5), float32
SAMPLE = FRESH
GRAPHS = pytest.mark.skipif(
    onnxruntime_release() < (1, 26), reason="before 1.26 onnxruntime copies no tensor into another's place"
)
Found = Mapping[str, Any]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def open_on_device(monkeypatch: pytest.MonkeyPatch, log: Log) -> Callable[..., Bundle]:
    def make(bundle: VerifiedBundle, part: str, settings: SessionSettings, *weights: Any) -> Session:
        if settings.providers[0].device == "cpu":
            return make_session(bundle, part, settings, *weights)
        return fake_session(log, bundle, part, settings, *weights)

    def open_bundle_on_device(path: Path, **settings: Any) -> Bundle:
        monkeypatch.setattr("guidegraph_runtime.running.bundle.make_session", make)
        return Bundle(path, SessionSettings(CUDA, **settings))

    return open_bundle_on_device


def on_cpu(path: Path) -> Bundle:
    return Bundle(path, SessionSettings(intra_threads=1))


def same(actual: Found, expected: Found) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert isinstance(actual[name], np.ndarray)
        np.testing.assert_array_equal(actual[name], array)


def between_steps(log: Log) -> list[list[tuple[str, Any]]]:
    """What happened before each run of the step but the first. The first run is encode's, the last decode's."""
    runs = [i for i, event in enumerate(log.events) if event[0] == "run"]
    return [log.events[a + 1 : b] for a, b in pairwise(runs[1:-1])]


def test_a_loop_uploads_only_new_values_and_downloads_nothing(
    tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log
) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    expected = on_cpu(path).run(steps=STEPS)
    bundle = open_on_device(path)
    same(bundle.run(steps=STEPS), expected)
    assert log.count("run") == 1 + STEPS + 1
    steps = between_steps(log)
    assert len(steps) == STEPS - 1
    assert steps == [[("upload", T), ("upload", FRESH)]] * (STEPS - 1)
    assert log.events[-1] == ("download", expected["image"].nbytes)
    assert log.count("copy") == 0
    assert log.count("make") == 0


def test_an_unchanged_value_is_uploaded_once(tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log) -> None:
    bundle = open_on_device(write_loop_bundle(tmp_path / "bundle"))
    bundle.run(steps=STEPS)
    first = log.events[: log.events.index(("run", "none"), 2)]  # until the first step has all
    # encode's level; then x, t, the condition, scale, the table, index, slots and the noise of the first step. The
    # condition is of one sample and comes down to be repeated, which is done once too.
    uploads = [size for kind, size in first if kind == "upload"]
    assert uploads == [4, SAMPLE, T, 2 * 2 * 4, 4, STEPS * 8, 8, 4 * SAMPLE, FRESH]
    assert [event for event in log.events if event[0] == "download"] == [("download", 2 * 4), ("download", 2 * SAMPLE)]


def test_a_condition_of_the_right_shape_stays_on_the_device(
    tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log
) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    expected = on_cpu(path).run(batch=1)
    same(open_on_device(path).run(batch=1), expected)
    assert [size for kind, size in log.events if kind == "download"] == [expected["image"].nbytes]


def test_another_size_in_the_next_run(tmp_path: Path, open_on_device: Callable[..., Bundle]) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    host, device = on_cpu(path), open_on_device(path)
    for batch, steps in ((2, 3), (3, 3), (1, 2), (2, 4)):
        same(device.run(batch=batch, steps=steps), host.run(batch=batch, steps=steps))


def test_collected_values_are_downloaded_after_the_loop(
    tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log
) -> None:
    path = write_loop_bundle(tmp_path / "bundle", collect=True)
    expected = on_cpu(path).run(steps=STEPS)
    assert expected["path"].shape == (STEPS, 2, 2, 3, 5)
    same(open_on_device(path).run(steps=STEPS), expected)
    last_step = [i for i, event in enumerate(log.events) if event[0] == "run"][-2]
    downloads = [i for i, event in enumerate(log.events) if event == ("download", SAMPLE)]
    assert len(downloads) == STEPS
    assert min(downloads) > last_step


@GRAPHS
def test_an_array_that_the_caller_changes_between_runs_is_uploaded_again(
    tmp_path: Path, open_on_device: Callable[..., Bundle]
) -> None:
    def change(value: dict[str, Any]) -> None:
        value["plan"][1]["in"] = {"y": "params.x"}

    path, array = write_bundle(tmp_path / "bundle", change=change), np.ones((2, 4), np.float32)
    bundle = open_on_device(path, cuda_graph=True)
    for factor in (1, 2, 3, 4):
        array *= factor
        same(bundle.run(x=array), on_cpu(path).run(x=array.copy()))


def test_an_observer_is_told_arrays(tmp_path: Path, open_on_device: Callable[..., Bundle]) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    calls_by_bundle: list[list[tuple[str, Found, Found]]] = [[], []]
    for bundle, calls in zip((on_cpu(path), open_on_device(path)), calls_by_bundle, strict=True):
        bundle.run_with({}, observer=lambda *call, calls=calls: calls.append(call))
    for (part, inputs, outputs), (expected_part, expected_inputs, expected_outputs) in zip(
        *calls_by_bundle[::-1], strict=True
    ):
        assert part == expected_part
        same(inputs, expected_inputs)
        same(outputs, expected_outputs)


# CUDA graphs: tensors at fixed addresses.


@GRAPHS
def test_a_cuda_graph_reads_and_writes_the_same_places(
    tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log
) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    expected = on_cpu(path).run(steps=STEPS)
    bundle = open_on_device(path, cuda_graph=True)
    same(bundle.run(steps=STEPS), expected)
    assert [graph for kind, graph in log.events if kind == "run"] == ["-1", "-1", *["1"] * (STEPS - 1), "-1"]
    assert len(set(log.addresses["1"])) == 1
    # t and the noise from the host; x, index and slots from the places of outputs to those of inputs.
    uploads = [("copy", SAMPLE), ("upload", T), ("copy", 8), ("copy", 4 * SAMPLE), ("upload", FRESH)]
    assert between_steps(log)[1:] == [uploads] * (STEPS - 2)
    log.events.clear()
    same(bundle.run(steps=STEPS), expected)
    assert [graph for kind, graph in log.events if kind == "run"] == ["1", *["1"] * STEPS, "1"]
    assert log.count("make") == 3 * 2 - 2  # places for encode and decode, two each; none for the step


@GRAPHS
def test_each_shape_has_a_cuda_graph(tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    host, device = on_cpu(path), open_on_device(path, cuda_graph=True)
    seen: list[list[str]] = []
    for batch in (2, 3, 2, 3):
        same(device.run(batch=batch), host.run(batch=batch))
        seen.append([graph for kind, graph in log.events if kind == "run"])
        log.events.clear()
    # encode has one shape, so a graph of its own from its second call on.
    assert seen[0] == ["-1", "-1", "1", "1", "1", "1", "-1"]
    assert seen[1] == ["1", "-1", "2", "2", "2", "2", "-1"]
    assert seen[2] == ["1", "1", "1", "1", "1", "1", "1"]
    assert seen[3] == ["1", "2", "2", "2", "2", "2", "2"]


@GRAPHS
def test_values_outlive_the_places_of_a_cuda_graph(
    tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log
) -> None:
    path = write_loop_bundle(tmp_path / "bundle", collect=True)
    expected = on_cpu(path).run(steps=STEPS)
    same(open_on_device(path, cuda_graph=True).run(steps=STEPS), expected)
    last_step = [i for i, event in enumerate(log.events) if event[0] == "run"][-2]
    assert ("download", SAMPLE) not in log.events[:last_step]


@pytest.fixture
def step(tmp_path: Path, log: Log) -> Callable[..., Session]:
    """The session of y = x · scale + w, whose weights w may be exchanged."""
    graph = step_graph(weights=inline_tensor("w", WEIGHTS))
    graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4]))
    path = write_bundle(
        tmp_path / "step", step=model(graph), change=lambda value: value["parts"]["step"].update(externals=[])
    )
    return lambda **settings: fake_session(log, open_bundle(path), "step", SessionSettings(CUDA, **settings))


X = np.arange(8, dtype=np.float32).reshape(2, 4)
OTHER = np.full(4, 10, np.float32)


@pytest.mark.parametrize("cuda_graph", [False, pytest.param(True, marks=GRAPHS)])
def test_other_weights(step: Callable[..., Session], log: Log, cuda_graph: bool) -> None:
    session, parts = step(cuda_graph=cuda_graph), DeviceRunner(CudaGraphs())
    scale = np.float32(2)
    for _ in range(3):
        plain = parts(session, {"x": X, "scale": scale})["y"]
        other = parts(session, {"x": X, "scale": scale}, {"w": OTHER})["y"]
        np.testing.assert_array_equal(plain.array(), 2 * X + WEIGHTS)
        np.testing.assert_array_equal(other.array(), 2 * X + OTHER)
    log.events.clear()
    parts(session, {"x": X, "scale": scale}, {"w": OTHER})
    assert log.count("upload") == 0
    with pytest.raises(BundleError, match="found 'v'; there is: w"):
        parts(session, {"x": X, "scale": scale}, {"v": OTHER})
    for _ in range(2):
        with pytest.raises(BundleError, match=r"expected 'w' of shape \(4,\), found \(3,\)"):
            parts(session, {"x": X, "scale": scale}, {"w": OTHER[:3]})


@GRAPHS
def test_a_value_of_two_steps_ago(step: Callable[..., Session]) -> None:
    """As in a loop that carries the last two: each is read while a later one lies in its place."""
    session, parts = step(cuda_graph=True), DeviceRunner(CudaGraphs())
    scale = np.float32(2)
    parts(session, {"x": X, "scale": scale})
    values = [parts(session, {"x": X + i, "scale": scale})["y"] for i in range(3)]
    again = [parts(session, {"x": value, "scale": scale})["y"] for value in values]
    for i, (value, after) in enumerate(zip(values, again, strict=True)):
        np.testing.assert_array_equal(value.array(), 2 * (X + i) + WEIGHTS)
        np.testing.assert_array_equal(after.array(), 2 * (2 * (X + i) + WEIGHTS) + WEIGHTS)


def test_an_input_that_failed_is_set_again(step: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    session, parts = step(), DeviceRunner(CudaGraphs())
    inputs = {"x": X, "scale": np.float32(2)}
    parts(session, inputs)
    other = {"x": X + 1, "scale": np.float32(2)}
    with monkeypatch.context() as patched:
        patched.setattr(FakeTensor, "update_inplace", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(BundleError, match="not enough memory"):
            parts(session, other)
    np.testing.assert_array_equal(parts(session, other)["y"].array(), 2 * (X + 1) + WEIGHTS)


def test_sizes_that_do_not_agree(tmp_path: Path, open_on_device: Callable[..., Bundle], log: Log) -> None:
    bundle = open_on_device(write_loop_bundle(tmp_path / "bundle"))
    session, zeros = bundle.session("step"), partial(np.zeros, dtype=np.float32)
    values = {"t": zeros(1), "condition": zeros((1, 2)), "params.scale": 1.0, "slots": zeros(4), "index": zeros(1)}
    values |= {"scheduler.scheduler.alpha": zeros(5), "x": zeros((2, 2, 3, 3)), "fresh": zeros((3, 2, 3, 3))}
    with pytest.raises(ValueError, match="'batch' is 2 in 'x' and 3 in 'fresh'"):
        DeviceRunner(CudaGraphs())(session, values)
    assert log.events == []


def test_a_value_comes_to_the_host_once(step: Callable[..., Session], log: Log) -> None:
    value = DeviceValue(FakeTensor(log, onnxruntime.OrtValue.ortvalue_from_numpy(X)), step())
    shape_only = to_placeholder(value)
    assert (shape_only.shape, shape_only.dtype, shape_only.strides) == ((2, 4), np.float32, (0, 0))
    assert log.events == []
    np.testing.assert_array_equal(to_host(value), X)
    assert to_host(value) is to_host(value)
    assert log.events == [("download", X.nbytes)]
    assert to_host(X) is X
    assert to_placeholder(3) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_bundle_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool) -> None:
    path = write_loop_bundle(tmp_path / "bundle", collect=True)
    host = on_cpu(path)
    device = Bundle(path, SessionSettings.on("cuda", cuda_graph=cuda_graph))
    downloads: list[tuple[int, ...]] = []
    read = DeviceValue.array

    def record(value: DeviceValue) -> Any:
        downloads.append(value.shape)
        return read(value)

    monkeypatch.setattr(DeviceValue, "array", record)
    for batch in (2, 1, 2):
        actual, expected = device.run(batch=batch, steps=STEPS), host.run(batch=batch, steps=STEPS)
        for name, array in expected.items():
            np.testing.assert_allclose(actual[name], array, rtol=1e-5, atol=1e-6)
    condition, path_and_image = [(1, 2)] * 2, 3 * (STEPS + 1)
    assert len(downloads) == len(condition) + path_and_image


@GRAPHS
def test_of_many_shapes_the_graphs_of_the_latest_are_kept(step: Callable[..., Session], log: Log) -> None:
    session, graphs = step(cuda_graph=True), CudaGraphs()
    parts, scale = DeviceRunner(graphs), np.float32(2)
    for batch in [*range(1, MAX_SHAPES + 1), 1, MAX_SHAPES + 1]:
        for _ in range(2):
            parts(session, {"x": np.zeros((batch, 4), np.float32), "scale": scale})
    assert len(graphs.parts) == len(graphs.sizes) == MAX_SHAPES
    log.events.clear()
    for batch, graph in ((1, "1"), (2, "-1")):
        parts(session, {"x": np.zeros((batch, 4), np.float32), "scale": scale})
        assert log.events.pop() == ("run", graph)


@GRAPHS
def test_a_run_that_goes_on_with_earlier_weights_keeps_none_of_their_graphs(step: Callable[..., Session]) -> None:
    session, graphs = step(cuda_graph=True), CudaGraphs()
    parts, inputs = DeviceRunner(graphs), {"x": X, "scale": np.float32(2)}
    values = [parts(session, inputs)["y"] for _ in range(2)]
    graphs.retire([session])
    values += [parts(session, inputs)["y"] for _ in range(2)]
    assert (graphs.parts, graphs.sizes) == ({}, {})
    for value in values:
        np.testing.assert_array_equal(value.array(), 2 * X + WEIGHTS)


@GRAPHS
def test_the_weights_of_other_loras_are_released(tmp_path: Path, open_on_device: Callable[..., Bundle]) -> None:
    bundle = open_on_device(write_adaptable_bundle(tmp_path / "bundle"), cuda_graph=True)
    path, sessions = write_lora(tmp_path / "lora.safetensors"), []
    for strength in (1.0, 2.0):
        loras = bundle.read_loras((path, strength))
        for _ in range(3):
            bundle.run_with({}, lora=loras)
        sessions += [weakref.ref(session) for session in bundle.sessions_with_lora(loras).values()]
    gc.collect()
    assert [session() is None for session in sessions] == [True, False]

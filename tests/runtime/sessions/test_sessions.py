"""Sessions run the verified bytes as the manifest describes them; on a GPU, tensors stay there between steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from guidegraph_runtime.bundle.manifest import Part, Tensor
from guidegraph_runtime.bundle.onnx_graph import onnxruntime_release
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions.binding import check_inputs, resolve_shape
from guidegraph_runtime.sessions.providers import Provider
from guidegraph_runtime.sessions.sessions import Session, SessionSettings, make_session
from tests.runtime.running.bundles import FLOAT, WEIGHTS, external, inline_tensor, model, step_graph, write_bundle

ONE_THREAD = SessionSettings(intra_threads=1)
CUDA = (Provider("cuda", 1, {"device_id": "1"}), Provider("cpu"))
X = np.arange(8, dtype=np.float32).reshape(2, 4)
TWO = np.float32(2)


def session(root: Path, part: str = "step", settings: SessionSettings = ONE_THREAD, **options: Any) -> Session:
    return make_session(open_bundle(write_bundle(root / "bundle", **options)), part, settings)


def refusal(call: Callable[[], Any], code: str) -> str:
    with pytest.raises(BundleError) as caught:
        call()
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parts_run_with_the_bytes_that_were_verified(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    shutil.rmtree(bundle.path)
    step, total = (make_session(bundle, name, ONE_THREAD) for name in ("step", "total"))
    bundle.release(bundle.manifest.files)
    y = step.run({"x": X, "scale": TWO})["y"]
    np.testing.assert_array_equal(y, 2 * X + WEIGHTS)
    out = total.run({"y": y})["out"]
    assert isinstance(out, np.ndarray)
    assert out.shape == ()
    assert out == y.sum()
    assert step.provider == Provider("cpu")


def test_weights_in_a_folder_and_from_an_offset_on(tmp_path: Path) -> None:
    def move(value: dict[str, Any]) -> None:
        value["files"]["parts/weights/step.bin"] = value["files"].pop("parts/step.onnx.data")
        value["parts"]["step"]["externals"] = ["parts/weights/step.bin"]

    tensor = external("w", "weights/step.bin", [4], offset=4)
    data = np.arange(6, dtype=np.float32).tobytes()
    root = write_bundle(tmp_path / "bundle", model(step_graph(weights=tensor)), data, move)
    (root / "parts/weights").mkdir()
    (root / "parts/step.onnx.data").rename(root / "parts/weights/step.bin")
    outputs = make_session(open_bundle(root), "step", ONE_THREAD).run({"x": X, "scale": TWO})
    np.testing.assert_array_equal(outputs["y"], 2 * X + [1, 2, 3, 4])


def test_weights_of_the_same_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step.onnx.data").write_bytes(np.full(4, 99, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(session(tmp_path).run({"x": X, "scale": TWO})["y"], 2 * X + WEIGHTS)


def test_inputs_as_they_come(tmp_path: Path) -> None:
    step = session(tmp_path)
    transposed = np.asfortranarray(X)
    strided = np.repeat(X, 2, axis=0)[::2]
    for x in (transposed, strided, X.view()):
        for scale in (TWO, np.array(2, np.float32)):
            np.testing.assert_array_equal(step.run({"x": x, "scale": scale})["y"], 2 * X + WEIGHTS)
    assert step.run({"x": X[:0], "scale": TWO})["y"].shape == (0, 4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X}, "expected the input 'scale', found x"),
        ({}, "expected the input 'x', found none"),
        ({"x": X, "scale": TWO, "skale": TWO}, "found 'skale'; did you mean 'scale'?"),
        ({"x": X.astype(np.float64), "scale": TWO}, "expected 'x' of dtype float32, found float64"),
        ({"x": X, "scale": 2.0}, "expected 'scale' of dtype float32, found float64"),
        ({"x": X, "scale": np.ones(1, np.float32)}, "expected 'scale' of shape (), found (1,)"),
        ({"x": X[0], "scale": TWO}, "expected 'x' of shape (batch, 4), found (4,)"),
        ({"x": X[:, :3], "scale": TWO}, "expected 'x' of shape (batch, 4), found (2, 3)"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path: Path, inputs: dict[str, Any], message: str) -> None:
    step = session(tmp_path)
    text = refusal(lambda: step.run(inputs), "bad-input")
    assert text.startswith(f"{tmp_path / 'bundle' / 'parts' / 'step.onnx'}: ")
    assert message in text


PAIR = Part(
    "a.onnx",
    (Tensor("x", "float32", ("batch", 4)), Tensor("t", "int64", ("batch",))),
    (Tensor("y", "float32", ("batch", "width")),),
    {"": 20},
)


def test_axes_of_one_name_have_one_size() -> None:
    assert check_inputs("a", PAIR, {"x": X, "t": np.zeros(2, np.int64)}) == {"batch": 2}
    text = refusal(lambda: check_inputs("a", PAIR, {"x": X, "t": np.zeros(3, np.int64)}), "bad-input")
    assert "expected 't' of shape (batch,), found (3,), while batch is 2 in another input" in text
    assert resolve_shape("a", PAIR.outputs[0], {"batch": 2, "width": 5}) == [2, 5]
    refusal(lambda: resolve_shape("a", PAIR.outputs[0], {"batch": 2}), "bad-input")


def change_description(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["parts"]["step"].update(changes)


SCALE = {"name": "scale", "dtype": "float32", "dims": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [SCALE]},
        {"inputs": [SCALE, {"name": "x", "dtype": "float32", "dims": ["batch", 4]}]},
        {"inputs": [{"name": "x", "dtype": "float16", "dims": ["batch", 4]}, SCALE]},
        {"inputs": [{"name": "x", "dtype": "float32", "dims": ["batch"]}, SCALE]},
        {"inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", 5]}, SCALE]},
        {"inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", "width"]}, SCALE]},
        {"outputs": [{"name": "z", "dtype": "float32", "dims": ["batch", 4]}]},
    ],
)
def test_graph_that_differs_from_the_manifest(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "expected the " in refusal(lambda: session(tmp_path, change=change_description(**changes)), "bad-session")


def test_graph_that_onnxruntime_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = step_graph([helper.make_node("NoSuchOperator", ["x", "w"], ["y"])])
    text = refusal(lambda: session(tmp_path, step=model(graph)), "session-failed")
    assert "NoSuchOperator" in text
    assert capfd.readouterr() == ("", "")


def test_run_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Cast", ["scale"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "index"], ["one"]),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    step = session(tmp_path, step=model(step_graph(nodes)))
    np.testing.assert_array_equal(step.run({"x": X, "scale": TWO})["y"], X + TWO)
    assert "Gather" in refusal(lambda: step.run({"x": X, "scale": np.float32(9)}), "run-failed")
    assert capfd.readouterr() == ("", "")


def test_a_session_is_made_of_bytes_and_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = onnxruntime.InferenceSession, []

    def record(data: object, options: Any, **arguments: Any) -> Any:
        made.append((data, options, arguments))
        return real(data, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    settings = SessionSettings(intra_threads=1, inter_threads=2, optimization="basic")
    session(tmp_path, settings=settings)
    ((data, options, arguments),) = made
    assert data == (tmp_path / "bundle/parts/step.onnx").read_bytes()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 2)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"
    assert arguments == {
        "providers": [("CPUExecutionProvider", {})],
        "enable_fallback": 0,
        "read_config_from_model": 0,
    }


def test_onnxruntime_is_told_to_round_tiny_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No session is made, as the first one of a process would change the arithmetic of this thread."""
    made: list[Any] = []

    def stop(data: object, options: Any, **arguments: Any) -> Any:
        made.append(options)
        raise RuntimeError("stopped")

    monkeypatch.setattr(onnxruntime, "InferenceSession", stop)
    with pytest.raises(BundleError, match="stopped"):
        session(tmp_path, settings=SessionSettings(flush_denormals=True))
    assert made[0].get_session_config_entry("session.set_denormal_as_zero") == "1"


@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
def test_every_optimization_gives_the_same(tmp_path: Path, optimization: str) -> None:
    step = session(tmp_path, settings=SessionSettings(intra_threads=1, optimization=optimization))
    np.testing.assert_array_equal(step.run({"x": X, "scale": TWO})["y"], 2 * X + WEIGHTS)


@pytest.mark.parametrize(
    "settings", [{"optimization": "max"}, {"intra_threads": -1}, {"inter_threads": 2000}, {"cuda_graph": True}]
)
def test_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    assert ", found " in refusal(lambda: SessionSettings(**settings), "bad-session")


def test_settings_by_name_of_a_provider() -> None:
    assert SessionSettings.on("cpu", intra_threads=3) == SessionSettings((Provider("cpu"),), intra_threads=3)


def test_bundle_that_needs_another_provider(tmp_path: Path) -> None:
    def require(value: dict[str, Any]) -> None:
        value["requires"]["providers"] = ["cuda", "tensorrt"]

    text = refusal(lambda: session(tmp_path, change=require), "no-provider")
    assert "expected one of the providers cuda, tensorrt, found cpu" in text


def test_onnxruntime_that_takes_no_files_of_weights_gets_each_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory")
    step = session(tmp_path / "step")
    np.testing.assert_array_equal(step.run({"x": X, "scale": TWO})["y"], 2 * X + WEIGHTS)
    monkeypatch.setattr("guidegraph_runtime.sessions.sessions._NUMPY_TYPES", {})
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    text = refusal(lambda: session(tmp_path / "other"), "bad-session")
    assert "expected onnxruntime 1.24 or later for the weight 'w', which is of a type that NumPy lacks" in text


@pytest.fixture
def with_weights(tmp_path: Path) -> Session:
    """A session whose weights w may be exchanged."""
    graph = step_graph(weights=inline_tensor("w", WEIGHTS))
    graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4]))
    return session(tmp_path, step=model(graph), change=change_description(externals=[]))


OTHER = np.full(4, 10, np.float32)


def test_weights_may_be_exchanged(with_weights: Session) -> None:
    assert with_weights.weights == {"w": Tensor("w", "float32", (4,))}
    output = with_weights.run({"x": X, "scale": TWO, "w": OTHER})["y"]
    np.testing.assert_array_equal(output, 2 * X + OTHER)
    np.testing.assert_array_equal(with_weights.run({"x": X, "scale": TWO})["y"], 2 * X + WEIGHTS)
    refusal(lambda: with_weights.run({"x": X, "scale": TWO, "w": OTHER[:3]}), "bad-input")


def test_weights_of_bound_runs_may_be_exchanged(with_weights: Session) -> None:
    binding = with_weights.bind()
    binding.set("x", X)
    binding.set("scale", TWO)
    np.testing.assert_array_equal(binding.run()["y"].numpy(), 2 * X + WEIGHTS)
    binding.set("w", OTHER)
    np.testing.assert_array_equal(binding.run()["y"].numpy(), 2 * X + OTHER)


def test_adapters_take_the_place_of_weights(with_weights: Session, tmp_path: Path) -> None:
    written = onnxruntime.AdapterFormat()
    written.set_adapter_version(1)
    written.set_model_version(1)
    written.set_parameters({"w": onnxruntime.OrtValue.ortvalue_from_numpy(OTHER)})
    written.export_adapter(str(tmp_path / "adapter"))
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(tmp_path / "adapter"))
    np.testing.assert_array_equal(with_weights.run({"x": X, "scale": TWO}, [adapter])["y"], 2 * X + OTHER)
    np.testing.assert_array_equal(with_weights.run({"x": X, "scale": TWO})["y"], 2 * X + WEIGHTS)


# Bindings, on the CPU for their values and on a recording session for what a GPU would be told.


def test_a_loop_over_bound_tensors(tmp_path: Path) -> None:
    step, binding = session(tmp_path), session(tmp_path / "again").bind()
    binding.set("scale", TWO)
    value: Any = X
    expected, kept = X, []
    for _ in range(4):
        binding.set("x", value)
        value = binding.run()["y"]
        expected = step.run({"x": expected, "scale": TWO})["y"]
        kept.append((value, expected))
    for output, reference in kept:  # a later run has not written over an earlier one
        np.testing.assert_array_equal(output.numpy(), reference)


@pytest.mark.skipif(
    onnxruntime_release() < (1, 26), reason="before 1.26 onnxruntime copies no tensor into the place of another"
)
def test_a_loop_at_fixed_addresses(tmp_path: Path) -> None:
    step, binding = session(tmp_path), session(tmp_path / "again").bind_fixed({"batch": 2})
    binding.set("scale", TWO)
    binding.set("x", X)
    expected, outputs = X, []
    for _ in range(3):
        outputs.append(binding.run()["y"])
        expected = step.run({"x": expected, "scale": TWO})["y"]
        np.testing.assert_array_equal(outputs[-1].numpy(), expected)
        binding.set("x", outputs[-1])
    assert outputs[0] is outputs[1] is outputs[2]


@pytest.mark.parametrize("fixed", [False, True])
def test_bound_tensors_that_do_not_fit(tmp_path: Path, fixed: bool) -> None:
    step = session(tmp_path)
    binding: Any = step.bind_fixed({"batch": 2}) if fixed else step.bind()
    wrong = onnxruntime.OrtValue.ortvalue_from_numpy(X.astype(np.float64))
    assert "found 'y'" in refusal(lambda: binding.set("y", X), "bad-input")
    for value in (wrong, X.astype(np.float64)):
        text = refusal(partial(binding.set, "x", value), "bad-input")
        assert "expected 'x' of dtype float32, found float64" in text
    assert "(2, 3)" in refusal(lambda: binding.set("x", X[:, :3]), "bad-input")
    assert "expected the input 'x' to be set, found none" in refusal(binding.run, "bad-input")
    if fixed:
        assert "expected 'x' of shape (2, 4), found (1, 4)" in refusal(lambda: binding.set("x", X[:1]), "bad-input")
        refusal(lambda: step.bind_fixed({"width": 2}), "bad-input")


class Value:
    """A tensor on a device that only records calls."""

    def __init__(self, log: list[Any], shape: tuple[int, ...], dtype: str, device: str):
        self.log, self.device = log, device
        self._shape, self._dtype = shape, dtype

    def data_type(self) -> str:
        return f"tensor({ {'float32': 'float'}.get(self._dtype, self._dtype) })"

    def shape(self) -> list[int]:
        return list(self._shape)

    def numpy(self) -> Any:
        self.log.append("to host")
        return np.zeros(self._shape, self._dtype)

    def update_inplace(self, data: Any) -> None:
        self.log.append(("into", self, "from host" if isinstance(data, np.ndarray) else data))


class RecordingRuntime:
    """What bindings use of onnxruntime, and the session on it: nothing is computed, everything is recorded."""

    def __init__(self, outputs: Mapping[str, tuple[int, ...]]):
        self.log: list[Any] = []
        self.shapes = outputs
        self.OrtValue = self

    def ortvalue_from_numpy(self, array: Any, device: str, device_id: int) -> Value:
        self.log.append("from host")
        return Value(self.log, array.shape, str(array.dtype), f"{device}:{device_id}")

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: Any, device: str, device_id: int) -> Value:
        return Value(self.log, tuple(shape), str(np.dtype(dtype)), f"{device}:{device_id}")

    class RunOptions:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}

        def add_run_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

    def get_overridable_initializers(self) -> list[Any]:
        return []

    def io_binding(self) -> RecordingBinding:
        return RecordingBinding(self)

    def run_with_iobinding(self, binding: RecordingBinding, options: Any) -> None:
        self.bound = binding
        self.log.append(("run", dict(binding.inputs), options and options.entries))

    def run(self, names: list[str], arrays: Mapping[str, Any], options: Any) -> list[Any]:
        self.log.append(("run on host", options and options.entries))
        return [np.zeros(self.shapes[name], np.float32) for name in names]


class RecordingBinding:
    def __init__(self, runtime: RecordingRuntime):
        self.runtime = runtime
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value

    def bind_output(self, name: str, device: str, device_id: int) -> None:
        self.outputs[name] = Value(self.runtime.log, self.runtime.shapes[name], "float32", f"{device}:{device_id}")

    def get_outputs(self) -> list[Value]:
        return list(self.outputs.values())


STEP = Part(
    "step.onnx",
    (Tensor("x", "float32", ("batch", 4)), Tensor("scale", "float32", ())),
    (Tensor("y", "float32", ("batch", 4)),),
    {"": 20},
)


def record_session(**settings: Any) -> tuple[Session, RecordingRuntime]:
    runtime = RecordingRuntime({"y": (2, 4)})
    return Session("step.onnx", STEP, runtime, SessionSettings(CUDA, **settings), runtime), runtime


def test_nothing_leaves_the_device_inside_of_a_loop() -> None:
    step, runtime = record_session()
    binding = step.bind()
    binding.set("scale", TWO)
    binding.set("x", X)
    assert runtime.log == ["from host", "from host"]
    runtime.log.clear()
    outputs: list[Any] = []
    for _ in range(3):
        outputs.append(binding.run()["y"])
        binding.set("x", outputs[-1])
    assert [entry[0] for entry in runtime.log] == ["run", "run", "run"]
    assert [entry[1]["x"] for entry in runtime.log[1:]] == outputs[:2]
    assert {value.device for value in (*outputs, *runtime.bound.inputs.values())} == {"cuda:1"}
    assert len({id(value) for value in outputs}) == 3
    assert runtime.log[0][2] == {}


def test_a_cuda_graph_has_its_own_addresses_and_number() -> None:
    step, runtime = record_session(cuda_graph=True)
    binding = step.bind_fixed({"batch": 2})
    binding.set("scale", TWO)
    binding.set("x", X)
    runtime.log.clear()
    for _ in range(3):
        binding.set("x", binding.run()["y"])
    runs = [entry for entry in runtime.log if entry[0] == "run"]
    copies = [entry for entry in runtime.log if entry[0] == "into"]
    assert [entry[2] for entry in runs] == [{"gpu_graph_id": "1"}] * 3
    assert all(entry[1] == runs[0][1] for entry in runs)
    assert [(entry[1], entry[2]) for entry in copies] == [(runtime.bound.inputs["x"], runtime.bound.outputs["y"])] * 3
    assert {value.device for value in (*runtime.bound.inputs.values(), *runtime.bound.outputs.values())} == {"cuda:1"}


def test_every_binding_has_a_cuda_graph_of_its_own() -> None:
    step, runtime = record_session(cuda_graph=True)
    for sizes in ({"batch": 2}, {"batch": 2}, {"batch": 3}):  # of one shape, too: they have other addresses
        fixed = step.bind_fixed(sizes)
        fixed.set("x", np.zeros((sizes["batch"], 4), np.float32))
        fixed.set("scale", TWO)
        fixed.run()
    assert [entry[2] for entry in runtime.log if entry[0] == "run"] == [{"gpu_graph_id": str(i)} for i in (1, 2, 3)]
    runtime.log.clear()
    step.run({"x": X, "scale": TWO})
    binding = step.bind()
    binding.set("x", X)
    binding.set("scale", TWO)
    binding.run()
    # Neither has tensors at fixed addresses: recorded, a graph would read the ones of its first run for ever.
    assert runtime.log[0] == ("run on host", {"gpu_graph_id": "-1"})
    assert runtime.log[-1][2] == {"gpu_graph_id": "-1"}


class FakeSession:
    """An `InferenceSession` that has the providers it is told to have."""

    got: tuple[str, ...] = ("CPUExecutionProvider",)
    request: Any = None

    def __init__(self, data: bytes, options: Any, *, providers: Any, **_: Any):
        FakeSession.request = (providers, options)

    def get_providers(self) -> list[str]:
        return list(self.got)

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.mark.parametrize(
    ("settings", "providers", "entry"),
    [
        ({}, [("CUDAExecutionProvider", {"device_id": "1"}), ("CPUExecutionProvider", {})], ""),
        ({"strict": True}, [("CUDAExecutionProvider", {"device_id": "1"})], "1"),
        (
            {"cuda_graph": True},
            [("CUDAExecutionProvider", {"device_id": "1", "enable_cuda_graph": "1"}), ("CPUExecutionProvider", {})],
            "",
        ),
    ],
)
def test_options_of_a_session_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], providers: Any, entry: str
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    text = refusal(lambda: session(tmp_path, settings=SessionSettings(CUDA, **settings)), "no-provider")
    assert "expected a session on cuda, found CPUExecutionProvider only" in text
    assert FakeSession.request[0] == providers
    try:
        actual = FakeSession.request[1].get_session_config_entry("session.disable_cpu_ep_fallback")
    except RuntimeError:  # not set
        actual = ""
    assert actual == entry


def test_a_session_runs_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    code = """
import sys
for name in ("torch", "onnx", "PIL", "guidegraph"):
    sys.modules[name] = None
import numpy as np
from guidegraph_runtime.sessions.sessions import SessionSettings, make_session
from guidegraph_runtime.bundle.verify import open_bundle
step = make_session(open_bundle(sys.argv[1]), "step", SessionSettings.on("cpu", intra_threads=1))
print(step.run({"x": np.ones((1, 4), np.float32), "scale": np.float32(2)})["y"].tolist())
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "bundle")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[[2.0, 3.0, 4.0, 5.0]]\n", "")


@pytest.mark.gpu
def test_a_loop_on_a_gpu(tmp_path: Path) -> None:
    on_gpu = session(tmp_path, settings=SessionSettings.on("cuda", cuda_graph=True))
    for binding in (on_gpu.bind(), on_gpu.bind_fixed({"batch": 2})):
        value: Any = X
        expected = X
        binding.set("scale", TWO)
        for _ in range(4):
            binding.set("x", value)
            value = binding.run()["y"]
            expected = 2 * expected + WEIGHTS
            assert value.device_name() == "cuda"
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6)

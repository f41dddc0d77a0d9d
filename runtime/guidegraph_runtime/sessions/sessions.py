"""Sessions of onnxruntime on the parts of a verified bundle, created from bytes, never from a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import numpy as np

from guidegraph_runtime.bundle.manifest import Part, Tensor
from guidegraph_runtime.bundle.onnx_graph import onnxruntime_release, read_graph
from guidegraph_runtime.bundle.verify import VerifiedBundle
from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import current_limits
from guidegraph_runtime.machine.shortages import explain_shortage
from guidegraph_runtime.sessions.binding import (
    NO_GRAPH,
    Array,
    Binding,
    DeviceTensor,
    FixedBinding,
    Value,
    check_inputs,
    dtype_name,
    empty,
    find_input,
)
from guidegraph_runtime.sessions.call_limits import (
    NEEDS_MEMORY,
    SHRINK_ARENA,
    WATCH,
    explain_limit,
    limit_memory,
    release_arena,
)
from guidegraph_runtime.sessions.providers import Provider, choose_providers, verify_providers

OPTIMIZATION = ("none", "basic", "extended", "all")
_ORT_LEVELS = dict(zip(OPTIMIZATION, ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"), strict=True))
_CUDA_GRAPH = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable"}
_GRAPH_ID = "gpu_graph_id"
_FATAL = 4
_NUMPY_TYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_NUMPY_TYPES |= {12: "<u4", 13: "<u8"}
"""The types of arrays by TensorProto.DataType."""


@dataclass(frozen=True)
class SessionSettings:
    """Settings of sessions.

    `intra_threads` work on one operator (0: one per core), `inter_threads` on several at once. `strict`: an operator
    that falls back to the CPU is an error. `cuda_graph` records the kernels of a run once for each set of shapes and
    replays them; it requires a GPU and `Session.bind_fixed`. `flush_denormals`: onnxruntime's threads round numbers
    below 1e-38 to zero; the first session of a process sets this in the thread that makes it, too.
    """

    providers: tuple[Provider, ...] = (Provider("cpu"),)
    intra_threads: int = 0
    inter_threads: int = 1
    optimization: str = "all"
    strict: bool = False
    cuda_graph: bool = False
    flush_denormals: bool = False

    @classmethod
    def on(cls, provider: str | Sequence[str] = "auto", device_id: int = 0, **options: Any) -> SessionSettings:
        """Settings for the providers that `choose_providers` finds."""
        return cls(choose_providers(provider, device_id), **options)

    def __post_init__(self) -> None:
        if self.optimization not in OPTIMIZATION:
            _refuse(f"expected an optimization of {', '.join(OPTIMIZATION)}, found '{self.optimization}'")
        for name in ("intra_threads", "inter_threads"):
            if not 0 <= getattr(self, name) <= 1024:
                _refuse(f"expected {name} from 0 to 1024, found {getattr(self, name)}")
        if self.cuda_graph and self.providers[0].device != "cuda":
            _refuse(
                f"expected a GPU for CUDA graphs, found the provider {self.providers[0].name}; leave cuda_graph out"
            )


class Session:
    """A part of a bundle, ready to run. `session` is an `onnxruntime.InferenceSession` or a stand-in.

    `weights` describes the initializers that can be overridden, like optional inputs.
    """

    def __init__(self, location: str, part: Part, session: Any, settings: SessionSettings, onnxruntime: Any):
        self.location, self.part, self.settings = location, part, settings
        self.session, self.onnxruntime = session, onnxruntime
        self.weights: Mapping[str, Tensor] = {
            initializer.name: Tensor(initializer.name, dtype_name(initializer.type), tuple(initializer.shape))
            for initializer in session.get_overridable_initializers()
        }
        self._names = [tensor.name for tensor in part.outputs]
        self._graphs = 0

    @property
    def provider(self) -> Provider:
        """The first provider of the session."""
        return self.settings.providers[0]

    def run(self, inputs: Mapping[str, Value], adapters: Sequence[Any] = ()) -> dict[str, Array]:
        """Run the graph; return all outputs by name, on the host.

        `inputs` has all of the part's inputs, in its dtypes and shapes, and any of `weights`; NumPy scalars count as
        0-d arrays. `adapters` are `onnxruntime.LoraAdapter` objects, which override weights. Raises ``BundleError``.
        """
        arrays = {name: np.asarray(value, order="C") for name, value in inputs.items()}
        check_inputs(self.location, self.part, arrays, self.weights)
        outputs = self.call(self.session.run, self._names, arrays, options=self.options(adapters, NO_GRAPH))
        return {name: np.asarray(value) for name, value in zip(self._names, outputs, strict=True)}

    def bind(self) -> Binding:
        """Create a binding, whose inputs and outputs stay on the provider's device between runs."""
        return Binding(self)

    def bind_fixed(self, sizes: Mapping[str, int], weights: Mapping[str, Sequence[int]] | None = None) -> FixedBinding:
        """Create a binding whose tensors keep their addresses, as CUDA graphs need. sizes: of the named axes.

        weights: the shapes of weights that are set like inputs.
        """
        return FixedBinding(self, sizes, weights)

    def weight(self, name: str) -> Tensor:
        """The description of a weight that can be overridden. Raises ``BundleError`` for any other name."""
        return find_input(self.location, name, self.weights)

    def copy_tensor(self, tensor: DeviceTensor) -> DeviceTensor:
        """Copy a tensor on the device."""
        copy = empty(self, tensor.shape(), dtype_name(tensor.data_type()))
        self.call_onnxruntime(copy.update_inplace, tensor)
        return copy

    def new_graph_id(self) -> int:
        """The id of a new CUDA graph: each binding needs its own, since a graph has one set of addresses."""
        if not self.settings.cuda_graph:
            return NO_GRAPH
        self._graphs += 1  # onnxruntime reserves 0
        return self._graphs

    def options(self, adapters: Sequence[Any], graph_id: int) -> Any:
        """Create the options of a run."""
        options = self.onnxruntime.RunOptions()
        options.log_severity_level = _FATAL
        if self.provider.device == "cpu":
            options.add_run_config_entry(SHRINK_ARENA, "cpu:0")
        for adapter in adapters:
            options.add_active_adapter(adapter)
        if self.settings.cuda_graph:
            options.add_run_config_entry(_GRAPH_ID, str(graph_id))
        return options

    def call_onnxruntime(self, call: Any, *arguments: Any) -> Any:
        """Call onnxruntime, and turn its errors into a ``BundleError``."""
        return _guard(self.location, "run-failed", call, *arguments)

    def call(self, run: Any, *arguments: Any, options: Any) -> Any:
        """Run the graph like ``call_onnxruntime``, with run options that end it after the limit ``call_seconds``."""
        seconds = current_limits().call_seconds
        for is_last in (False, True):
            try:
                with WATCH.watch(options, seconds):
                    return self.call_onnxruntime(run, *arguments, options)
            except BundleError as error:
                reason = explain_limit(error.__cause__, seconds) if error.__cause__ is not None else None
                if reason is None:
                    raise
                if reason[0] != NEEDS_MEMORY or is_last or self.provider.device != "cpu":
                    raise BundleError(self.location, *reason) from error.__cause__
            release_arena()  # values of another size may have been freed since the last call
        raise AssertionError("the second attempt returns or raises")


def make_session(
    bundle: VerifiedBundle,
    part: str,
    settings: SessionSettings | None = None,
    weights: Mapping[str, bytes] | None = None,
) -> Session:
    """Create the session of a part. Raises ``BundleError``, also for a graph that differs from the manifest.

    weights: replacements for the files of its weights, each of the same size as in the bundle.
    """
    import onnxruntime

    settings = settings or SessionSettings()
    described = bundle.manifest.parts[part]
    location = str(bundle.path / described.file)
    check_provider(bundle, part, settings)
    weights = bundle.externals(part) if weights is None else weights
    session = create_session(location, bundle.data(described.file), weights, settings)
    for kind, nodes, tensors in (
        ("input", session.get_inputs(), described.inputs),
        ("output", session.get_outputs(), described.outputs),
    ):
        actual = [(node.name, dtype_name(node.type), len(node.shape)) for node in nodes]
        expected = [(tensor.name, tensor.dtype, len(tensor.dims)) for tensor in tensors]
        if actual != expected:
            text = f"expected the {kind}s {_format_tensors(expected)}, found {_format_tensors(actual)}"
            _refuse(f"{text}; export the workflow again", location)
        for node, tensor in zip(nodes, tensors, strict=True):
            sizes = zip(node.shape, tensor.dims, strict=True)
            if any(isinstance(size, int) and size != dim for size, dim in sizes):  # a free axis takes any dim
                text = f"expected the {kind} '{tensor.name}' with axes {tensor.dims}, found {tuple(node.shape)}"
                _refuse(f"{text}; export the workflow again", location)
    return Session(location, described, session, settings, onnxruntime)


def check_provider(bundle: VerifiedBundle, part: str, settings: SessionSettings) -> None:
    """Raise ``BundleError`` if a bundle needs other providers for its parts than the settings name."""
    required = bundle.manifest.requires.providers
    names = [provider.name for provider in settings.providers]
    if required and names[0] not in required:
        message = f"expected one of the providers {', '.join(required)}, found {names[0]}; ask for one of them"
        raise BundleError(str(bundle.path / bundle.manifest.parts[part].file), "no-provider", message)


def create_session(location: str, data: bytes, weights: Mapping[str, bytes], settings: SessionSettings) -> Any:
    """Create the `onnxruntime.InferenceSession` from a checked graph's bytes and the files of its weights, by name.

    Fallbacks and options in the file are disabled, so that a graph cannot choose how it is run. Raises ``BundleError``
    if onnxruntime refuses the graph or lacks a provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.intra_threads
    options.inter_op_num_threads = settings.inter_threads
    if settings.inter_threads != 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{_ORT_LEVELS[settings.optimization]}")
    options.graph_optimization_level = level
    options.log_severity_level = _FATAL  # errors are raised, not logged too
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if settings.flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if settings.strict and settings.providers[0].device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if settings.providers[0].device == "cpu":
        limit_memory(onnxruntime)
        options.add_session_config_entry("session.use_env_allocators", "1")
        # The size of weights is bounded by the size of the file, and they are freed with their session.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if weights:
        _add_weights(location, options, data, weights)
    session = _guard(
        location,
        "session-failed",
        lambda: onnxruntime.InferenceSession(
            data, options, providers=_ort_providers(settings), enable_fallback=0, read_config_from_model=0
        ),
    )
    verify_providers(location, session.get_providers(), settings.providers)
    return session


def _ort_providers(settings: SessionSettings) -> list[tuple[str, dict[str, str]]]:
    providers = settings.providers
    if settings.cuda_graph:
        providers = tuple(
            replace(provider, options={**provider.options, _CUDA_GRAPH[provider.name]: "1"})
            if provider.name in _CUDA_GRAPH
            else provider
            for provider in providers
        )
    if settings.intra_threads:
        threads = {"num_of_threads": str(settings.intra_threads)}
        providers = tuple(
            replace(provider, options={**provider.options, **threads}) if provider.name == "openvino" else provider
            for provider in providers
        )
    if (
        settings.strict and providers[0].device != "cpu"
    ):  # onnxruntime refuses the CPU provider together with no fallback to it
        providers = tuple(provider for provider in providers if provider.device != "cpu")
    return [(provider.ort_name, dict(provider.options)) for provider in providers]


def _add_weights(location: str, options: Any, data: bytes, weights: Mapping[str, bytes]) -> None:
    """Give a session the files of its weights. data: the graph."""
    if hasattr(options, "add_external_initializers_from_files_in_memory"):
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), [len(file) for file in weights.values()]
        )
        return
    import onnxruntime

    # onnxruntime before 1.24, the last for Macs with Intel processors, takes one array for each weight.
    tensors = read_graph(data).externals
    if unknown := next((tensor for tensor in tensors if tensor.data_type not in _NUMPY_TYPES), None):
        version = ".".join(map(str, onnxruntime_release()))
        message = f"expected onnxruntime 1.24 or later for the weight '{unknown.name}', which is of a type that"
        _refuse(f"{message} NumPy lacks, found {version}; update it, or export in fp32 or fp16", location)
    arrays = [
        np.frombuffer(
            weights[tensor.location], _NUMPY_TYPES[tensor.data_type], prod(tensor.dims), tensor.offset
        ).reshape(tensor.dims)
        for tensor in tensors
    ]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    options.add_external_initializers([tensor.name for tensor in tensors], values)  # it copies them


def _format_tensors(tensors: Sequence[tuple[str, str, int]]) -> str:
    return ", ".join(f"{name} ({dtype}, {rank} axes)" for name, dtype, rank in tensors) or "none"


def _guard(location: str, code: str, call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except BundleError:
        raise
    except Exception as error:  # onnxruntime's errors have no common class
        if shortage := explain_shortage(error):
            raise BundleError(location, NEEDS_MEMORY if code == "run-failed" else code, shortage) from error
        lines = [line.strip() for line in error_text(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BundleError(location, code, f"onnxruntime: {lines[0][:500]}") from error


def _refuse(message: str, location: str = "onnxruntime") -> NoReturn:
    raise BundleError(location, "bad-session", message)

"""Parts as ONNX graphs in onnxruntime, kept on disk and, as sessions, in this process."""

from __future__ import annotations

import platform
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnxruntime
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from guidegraph.graph.acceleration.export_part import PartRunner, export_part
from guidegraph.graph.acceleration.part import Part, PartExample, WatchedSize, part_key, plan_function
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import (
    GRAPH,
    GraphDescription,
    KnownRefusal,
    PartStore,
    Refusal,
    StoredGraph,
    store_folder,
)
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph.graph.run_config import RunConfig
from guidegraph_runtime.sessions.providers import choose_providers, missing
from guidegraph_runtime.sessions.sessions import SessionSettings, create_session

MOST_BYTES = 4_000_000_000
"""Of the weights of sessions that are kept when their run has ended; the latest session is always kept."""

_sessions: OrderedDict[tuple[str, str, int], OnnxRunner] = OrderedDict()
"""The sessions of this process, the most recently used last: by key, device and a number."""
_numbers = iter(range(1 << 62))
_lock = threading.Lock()
"""Held while ``_sessions`` is read or changed."""


def forget_sessions() -> None:
    """Close the sessions of this process."""
    with _lock:
        _sessions.clear()


class OnnxBackend:
    """Runs parts in onnxruntime."""

    name = "onnxruntime"
    lifts_numbers = True

    def __init__(self, config: RunConfig):
        self._config = config
        self._store = PartStore(store_folder(config))

    @property
    def keeps_graphs(self) -> bool:
        return self._store.folder is not None

    def find(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> PartRunner | None:
        """A session for these sizes: one of this process, or of a graph on disk."""
        key, shapes = self.identify(part, flat), [tensor.shape for tensor in tensors]
        with _lock:
            for entry, runner in reversed(_sessions.items()):
                if entry[:2] == (key, self._config.device) and runner.fits(tensors):
                    _sessions.move_to_end(entry)
                    return runner
        graph = self._store.find(key, lambda description: fit_shapes(description, shapes) is not None)
        if graph is not None:
            return self._open(key, graph)
        if (refusal := self._store.find_refusal(key)) is not None:
            raise KnownRefusal(refusal)
        return None

    def make(self, part: Part, example: PartExample) -> PartRunner:
        """Export a part, keep its graph and open a session."""
        key = self.identify(part, example.flat)
        plan, watched = plan_function(part, example)
        description, save = export_part(plan, watched, self._config.device, self._config.dtype)
        runner = self._open(key, self._store.add(key, description, save))
        if not runner.fits(example.tensors):
            raise ValueError("its graph takes other sizes than those that it was exported with")
        return runner

    def keep_refusal(self, part: Part, flat: Sequence[FlatValue], refusal: Refusal) -> None:
        self._store.add_refusal(self.identify(part, flat), refusal)

    def was_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> bool:
        return self._store.was_compared(self.identify(part, flat), self._describe_situation(tensors))

    def note_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> None:
        self._store.note_compared(self.identify(part, flat), self._describe_situation(tensors))

    def _describe_situation(self, tensors: Sequence[Tensor]) -> str:
        """A text of the machine, the device and the sizes, on which the rounding of a graph depends."""
        return f"{platform.node()} {platform.machine()} {self._config.device} {[tuple(t.shape) for t in tensors]}"

    def identify(self, part: Part, flat: Sequence[FlatValue]) -> str:
        """The key of a part in the store."""
        device = self._config.device.partition(":")[0]
        environment = (self.name, onnxruntime.__version__, device, cpu_provider() if device == "cpu" else "")
        return part_key(part, flat, environment, self._config.device_key)

    def _open(self, key: str, graph: StoredGraph) -> OnnxRunner:
        runner = OnnxRunner(graph, self._config.device)
        with _lock:
            _sessions[key, self._config.device, next(_numbers)] = runner
            while len(_sessions) > 1 and sum(session.nbytes for session in _sessions.values()) > MOST_BYTES:
                _sessions.popitem(last=False)
        return runner


BATCH = DYNAMIC["B"]

SMALLEST = 5e-324
"""The smallest float of Python. Where such numbers are rounded to zero, a product with it is zero."""

_NUMPY_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
"""The dtypes that a graph can read from torch, by their names in NumPy."""


class OnnxRunner:
    """A session on the graph of a part. device: of the tensors, as torch names it. nbytes: of graph and weights."""

    def __init__(self, graph: StoredGraph, device: str):
        kind, _, index = device.partition(":")
        self.description = graph.description
        self.nbytes = sum(map(len, graph.files.values()))
        self._device, self._index = kind, int(index or 0)
        providers = choose_providers(cpu_provider() if kind == "cpu" else "auto", self._index)
        settings = SessionSettings(providers, intra_threads=torch.get_num_threads(), flush_denormals=True)
        weights = {name: data for name, data in graph.files.items() if name != GRAPH}
        with flush_denormals():  # the first session of a process changes the arithmetic of this thread
            self._session = create_session("an accelerated part", graph.files[GRAPH], weights, settings)
        self._read_inputs = {value.name for value in self._session.get_inputs()}

    @property
    def watched(self) -> tuple[WatchedSize, ...]:
        """The sizes that the part watches, which are its last outputs."""
        return self.description.watched

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the graph takes tensors of these sizes."""
        return fit_shapes(self.description, [tensor.shape for tensor in tensors]) is not None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for inputs that fit. They are new tensors on the same device."""
        shapes = fit_shapes(self.description, [tensor.shape for tensor in tensors])
        assert shapes is not None
        binding = self._session.io_binding()
        inputs = {
            name: (tensor if tensor.shape == shape else tensor.expand(shape)).contiguous()
            for (name, _), tensor, shape in zip(self.description.inputs, tensors, shapes, strict=True)
            if name in self._read_inputs
        }
        if self._device == "cuda":
            torch.cuda.current_stream(self._index).synchronize()  # onnxruntime has its own stream
        for name, tensor in inputs.items():
            kind, index = tensor.device.type, tensor.device.index or 0
            binding.bind_input(name, kind, index, _NUMPY_NAMES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        for name in self.description.outputs:
            binding.bind_output(name, self._device, self._index)
        with flush_denormals():
            self._session.run_with_iobinding(binding)
        return [_to_torch(value) for value in binding.get_outputs()]


@contextmanager
def flush_denormals() -> Iterator[None]:
    """A context in which this thread rounds numbers below 1e-38 to zero, where the processor can.

    onnxruntime's softmax makes such numbers of masked scores, and processors are slow at them. Its own threads round by
    a setting of the session.
    """
    rounded_before = SMALLEST * 1.0 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(rounded_before)


def cpu_provider() -> str:
    """The provider of graphs on the CPU: OpenVINO, if the installed onnxruntime has it."""
    return "cpu" if missing("openvino") else "openvino"


def _to_torch(value: Any) -> Tensor:
    """A tensor in the memory of an ``OrtValue``; DLPack has booleans as bytes."""
    has_protocol = hasattr(value, "__dlpack__")  # in onnxruntime 1.24, only the object inside has it
    tensor: Tensor = from_dlpack(value if has_protocol else value._ortvalue.to_dlpack())
    return tensor.bool() if value.data_type() == "tensor(bool)" else tensor


def fit_shapes(description: GraphDescription, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]] | None:
    """The shapes in which a graph takes inputs of these shapes: a batch of 1 is expanded. None: it does not take them.

    The graph takes free sizes that are multiples of the numbers in its description.
    """
    sizes: dict[str, int] = {}
    for (_, dims), shape in zip(description.inputs, shapes, strict=True):
        if len(dims) != len(shape) or 0 in shape:
            return None
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(dim, str):
                sizes[dim] = max(size, sizes.get(dim, 1))
    if any(size % description.multiples.get(name, 1) for name, size in sizes.items()):
        return None
    due_shapes = []
    for (_, dims), shape in zip(description.inputs, shapes, strict=True):
        due = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
        expandable = [dim == BATCH and size == 1 for dim, size in zip(dims, shape, strict=True)]
        if any(size != target and not free for size, target, free in zip(shape, due, expandable, strict=True)):
            return None
        due_shapes.append(due)
    return due_shapes

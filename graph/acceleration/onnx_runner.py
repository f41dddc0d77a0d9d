"""Running the graph of a part in onnxruntime on torch's tensors, without copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from guidegraph.graph.acceleration.part import WatchedSize
from guidegraph.graph.acceleration.store import GRAPH, GraphDescription, StoredGraph
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph_runtime.sessions.providers import choose_providers, missing
from guidegraph_runtime.sessions.sessions import SessionSettings, create_session

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
        if self._device == "cuda":
            torch.cuda.current_stream().synchronize()  # onnxruntime has its own stream
        binding = self._session.io_binding()
        inputs = {
            name: (tensor if tensor.shape == shape else tensor.expand(shape)).contiguous()
            for (name, _), tensor, shape in zip(self.description.inputs, tensors, shapes, strict=True)
            if name in self._read_inputs
        }
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

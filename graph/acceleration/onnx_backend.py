"""Parts as ONNX graphs in onnxruntime, kept on disk and, as sessions, in this process."""

from __future__ import annotations

import platform
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnxruntime

from guidegraph.graph.acceleration.backends import PartRunner
from guidegraph.graph.acceleration.export_part import export_part
from guidegraph.graph.acceleration.onnx_runner import OnnxRunner, cpu_provider, fit_shapes
from guidegraph.graph.acceleration.part import Part, PartExample, part_key, plan_function
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import KnownRefusal, PartStore, Refusal, StoredGraph, store_folder
from guidegraph.graph.run_config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

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

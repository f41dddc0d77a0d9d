"""A device that computes on the CPU under another name, and records the copies to it, from it and on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime

from guidegraph_runtime.bundle.verify import VerifiedBundle
from guidegraph_runtime.sessions.providers import Provider
from guidegraph_runtime.sessions.sessions import Session, SessionSettings, make_session

CUDA = (Provider("cuda", 0, {"device_id": "0"}), Provider("cpu"))


@dataclass
class Log:
    """What happened, in order: ("upload" | "download" | "copy" | "make", bytes), ("run", the number of its CUDA graph).

    addresses: those of the inputs and outputs of each run, by the number of its CUDA graph.
    """

    events: list[tuple[str, Any]] = field(default_factory=list)
    addresses: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.events)


class FakeTensor:
    """An `OrtValue` with its own memory, which is not shared with arrays that are copied in or out."""

    def __init__(self, log: Log, inner: Any):
        self.log, self.inner = log, inner

    def data_type(self) -> str:
        return str(self.inner.data_type())

    def shape(self) -> list[int]:
        return list(self.inner.shape())

    def numpy(self) -> Any:
        self.log.events.append(("download", self.inner.tensor_size_in_bytes()))
        return self.inner.numpy().copy()

    def update_inplace(self, data: Any) -> None:
        kind = "copy" if isinstance(data, FakeTensor) else "upload"
        assert isinstance(data, FakeTensor) or data.flags.c_contiguous
        self.log.events.append((kind, self.inner.tensor_size_in_bytes()))
        self.inner.update_inplace(data.inner if isinstance(data, FakeTensor) else data)


class FakeOrtValue:
    def __init__(self, log: Log):
        self.log = log

    def ortvalue_from_numpy(self, array: Any, device: str, device_id: int) -> FakeTensor:
        assert (device, device_id) == ("cuda", 0)
        self.log.events.append(("upload", array.nbytes))
        return FakeTensor(self.log, onnxruntime.OrtValue.ortvalue_from_numpy(array.copy()))

    def ortvalue_from_shape_and_type(self, shape: Sequence[int], dtype: Any, device: str, device_id: int) -> FakeTensor:
        assert (device, device_id) == ("cuda", 0)
        inner = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype)
        self.log.events.append(("make", inner.tensor_size_in_bytes()))
        # Memory that is not initialised: what reads it before it is written must show.
        inner.update_inplace(np.full(shape, 99, dtype))
        return FakeTensor(self.log, inner)


class FakeBinding:
    def __init__(self, log: Log, session: Any):
        self.log, self.inner = log, session.io_binding()
        self.bound: dict[str, FakeTensor] = {}

    def bind_ortvalue_input(self, name: str, value: FakeTensor) -> None:
        self.bound[name] = value
        self.inner.bind_ortvalue_input(name, value.inner)

    def bind_ortvalue_output(self, name: str, value: FakeTensor) -> None:
        self.bound[name] = value
        self.inner.bind_ortvalue_output(name, value.inner)

    def bind_output(self, name: str, device: str, device_id: int) -> None:
        assert (device, device_id) == ("cuda", 0)
        self.inner.bind_output(name, "cpu")

    def get_outputs(self) -> list[FakeTensor]:
        return [FakeTensor(self.log, inner) for inner in self.inner.get_outputs()]


class FakeRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class FakeSession:
    """A real session on the CPU that may only be run with bindings, and whose bindings are on the fake device."""

    RunOptions = FakeRunOptions

    def __init__(self, log: Log, inner: Any):
        self.log, self.inner = log, inner
        self.OrtValue = FakeOrtValue(log)

    def get_overridable_initializers(self) -> Any:
        return self.inner.get_overridable_initializers()

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.log, self.inner)

    def run_with_iobinding(self, binding: FakeBinding, options: FakeRunOptions) -> None:
        graph = options.entries.get("gpu_graph_id", "none")
        self.log.events.append(("run", graph))
        self.log.addresses.setdefault(graph, []).append(
            tuple(tensor.inner.data_ptr() for tensor in binding.bound.values())
        )
        self.inner.run_with_iobinding(binding.inner)

    def run(self, *_: Any) -> Mapping[str, Any]:
        raise AssertionError("a run through the host")


def fake_session(log: Log, bundle: VerifiedBundle, part: str, settings: SessionSettings, *weights: Any) -> Session:
    """The session of a part on the fake device."""
    inner = make_session(bundle, part, SessionSettings(intra_threads=1), *weights)
    fake = FakeSession(log, inner.session)
    return Session(inner.location, inner.part, fake, settings, fake)

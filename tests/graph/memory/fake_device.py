"""A device made of ordinary memory that knows what is on it, and nodes that work with models on it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from guidegraph import Tensor, current_device, hookimpl, node, structured
from guidegraph.graph.events import Event, ModelMoved
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from tests.graph.running import run_graph

NAME = "cpu:0"  # not the plain "cpu" of the host, so that nodes can tell the two


class FakeDevice:
    """A ``Mover``. ``used`` counts every byte that something still holds, whoever it is; ``peak`` is its largest."""

    host = "cpu"

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        self.peak = 0
        self.released = 0
        self.full_at: int | None = None

    @property
    def used(self) -> int:
        return sum(self.blocks.values())

    def on_device(self, tensor: torch.Tensor) -> bool:
        return tensor.layout is torch.strided and tensor.data_ptr() in self.blocks

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.full_at is not None and self.used + tensor.nbytes > self.full_at:
            raise torch.OutOfMemoryError("the fake device is full")
        memory = np.empty(max(tensor.nbytes, 1), np.uint8)
        self.blocks[memory.ctypes.data] = tensor.nbytes
        weakref.finalize(memory, self.blocks.pop, memory.ctypes.data)
        self.peak = max(self.peak, self.used)
        flat = torch.from_numpy(memory)[: tensor.nbytes].view(tensor.dtype)
        return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def release(self) -> None:
        self.released += 1


class Log:
    """Where the nodes below find their device, and what they did."""

    def __init__(self) -> None:
        self.device = FakeDevice()
        self.lines: list[str] = []
        self.made: dict[str, torch.nn.Module] = {}

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


log = Log()


class Net(torch.nn.Module):
    """``size`` weights of 4 bytes in all: one in a buffer, the others in a parameter."""

    shift: torch.Tensor

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name = name
        self.weight = torch.nn.Parameter(torch.arange(size - 1, dtype=torch.float32))
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for tensor in (self.weight, self.shift):
            assert log.device.on_device(tensor), f"{self.name} is read while it is not on the device"
        return x + self.weight.mean() + self.shift


def net(name: str, size: int) -> Net:
    """A model where the run makes its values."""
    made = Net(name, size)
    log.made[name] = made
    log.lines.append(f"make {name} on {'host' if current_device().index is None else 'device'}")
    made.weight.data = placed(made.weight.data)
    made._buffers["shift"] = placed(made.shift)
    return made


def placed(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor where the run makes its values."""
    return tensor if current_device().index is None else log.device.to_device(tensor)


class Model(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...


@structured
@dataclass(frozen=True)
class Table:
    rows: Tensor


class Parts(NamedTuple):
    big: Model
    small: Model
    table: Table


class MadeAndMeasured(NamedTuple):
    model: Model
    size: Tensor


@node("r.model")
def model(*, name: str, size: int) -> Model:
    """A model."""
    return net(name, size)


@node("r.parts", host=True)
def parts() -> Parts:
    """Two models and a table, as of a checkpoint."""
    return Parts(net("big", 30), net("small", 10), Table(torch.ones(3)))


@node("r.measured")
def measured(*, name: str, size: int) -> MadeAndMeasured:
    """A model and a tensor, so that it is made on the device."""
    return MadeAndMeasured(net(name, size), torch.tensor(float(size)))


@node("r.changed")
def changed(model: Model, *, shift: float = 2.0) -> Model:
    """A copy that shares all but the buffer, as of a LoRA."""
    assert isinstance(model, Net)
    kept = [*model.parameters(), *model.buffers()]
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
    made.name = f"{model.name}+"
    log.lines.append(f"change {model.name} on {'host' if current_device().index is None else 'device'}")
    made._buffers["shift"] = placed(torch.full((1,), shift))
    return made


@node("r.closure")
def closure(model: Model) -> Model:
    """A function around a model."""
    return lambda x: 2 * model(x)


@node("r.start")
def start() -> Tensor:
    """A number to begin with."""
    return torch.zeros(1)


@node("r.use")
def use(x: Tensor, models: Sequence[Model]) -> Tensor:
    """x through some models."""
    for each in models:
        x = each(x)
        log.lines.append(f"use {getattr(each, 'name', 'closure')}")
    return x


@node("r.positive")
def positive(x: Tensor) -> bool:
    """Whether x is above 0."""
    return bool(x > 0)


@node("r.read", io=True)
def read(*, value: float) -> Tensor:
    """A number from somewhere slow."""
    return torch.full((1,), value)


@node("r.load", io=True)
def load(*, name: str, size: int) -> Model:
    """A model from somewhere slow."""
    return net(name, size)


@node("r.ask", io=True)
def ask(models: Sequence[Model], *, about: float) -> Tensor:
    """What models say of a number, somewhere slow."""
    return models[0](torch.full((1,), about))


@node("r.table")
def table(x: Tensor, table: Table) -> Tensor:
    """x and the sum of a table."""
    assert log.device.on_device(table.rows)
    return x + table.rows.sum()


@node("r.boom")
def boom(x: Tensor, models: Sequence[Model]) -> Tensor:
    """Fails."""
    raise RuntimeError("no")


@node("r.save", pure=False, host=True)
def save(models: Sequence[Model], *, path: str = "") -> str:
    """Writes models."""
    log.lines.append("save on " + ("device" if any(log.device.on_device(m.weight) for m in models) else "host"))  # type: ignore[attr-defined]
    return path


@node("r.detached")
def detached(models: Sequence[Model]) -> Any:
    """A model whose module has another buffer after each call."""
    return Restless(next(m for m in models if isinstance(m, Net)))


class Restless(torch.nn.Module):
    count: torch.Tensor

    def __init__(self, inner: Net) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert log.device.on_device(self.count)
        self.count = log.device.to_device(self.count + 1)
        out: torch.Tensor = self.inner(x) + self.count
        return out


NODES: tuple[Callable[..., Any], ...] = (
    model, parts, measured, changed, closure, start, use, positive, read, load, ask, table, boom, save, detached,
)  # fmt: skip


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    """So that the command line can use them: ``--plugin tests.graph.memory.fake_device``."""
    return NODES


REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in NODES})


def run_on_fake(
    text: str,
    folder: Path,
    budget: int | None,
    values: dict[str, Any] | None = None,
    observer: Callable[[Event], None] = lambda event: None,
    **options: Any,
) -> RunResult:
    """Run a workflow given as text with the fake device; moves go to the log as ``big in`` and ``big out``."""

    def watch(event: Event) -> None:
        if isinstance(event, ModelMoved):
            name = event.output if event.path == "nodes.parts" else event.path.removeprefix("nodes.")
            log.lines.append(f"{name} {'in' if event.device == NAME else 'out'} {event.bytes}")
        observer(event)

    (folder / "workflow.yaml").write_text("guidegraph: 1\n" + text)
    graph = build(folder / "workflow.yaml", REGISTRY)
    settings = {"device": NAME, "mover": log.device, "memory_budget": budget, "observers": [watch], **options}
    return run_graph(graph, values, **settings)

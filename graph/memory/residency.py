"""Moving models between device and host, step by step of a plan, under a budget for their weights.

Before a step the models that it reads are moved to the device. To make room, other models leave it, those with the
farthest next use first (Belady 1966). A model that no later step reads leaves at once, even if a cache still holds it.
A loop is one step that reads everything that its body reads; no model moves while it runs.

Calls that run on the CPU under a memory budget: those that make or save models, by the types of their ports.

The models of a checkpoint are then moved to the device one by one, when they are first read.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph.graph import torch_private
from guidegraph.graph.device_context import use_device
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.events import ModelMoved
from guidegraph.graph.execution.call import node_error
from guidegraph.graph.ir import Call
from guidegraph.graph.memory.weights import Mover, Weight, Weights, find_models
from guidegraph.graph.planning.steps import BlockPlan, Slot, Step
from guidegraph.graph.port import PortKind, port_kinds
from guidegraph.graph.sources import Literal, list_sources
from guidegraph.graph.types import PortType, is_tensor
from guidegraph_runtime.machine.memory import show_size

if TYPE_CHECKING:
    import torch

ValueOrigin: TypeAlias = tuple[str, str]
"""The origin of a value: the path of its operation, and the output's name."""

FROM_OUTSIDE: ValueOrigin = ("params", "")
"""The origin of values that come from outside of the workflow."""

START = -1
"""The position before the first step."""


class BudgetError(GuidegraphError):
    """The models that a step reads exceed the memory budget."""


def move_models(
    values: Iterable[tuple[ValueOrigin, Any]], mover: Mover, device: str, on_move: Callable[[ModelMoved], None]
) -> None:
    """Move the models in some values to the device for good."""
    weights = Weights(mover, strict=False)
    for made, value in values:
        for module in find_models(value):
            started = time.perf_counter()
            moved = sum([weights.enter(weight) for weight in weights.of(module)])
            if moved:
                on_move(_make_event(module, made, device, moved, started))


def _make_event(
    module: torch.nn.Module, made: ValueOrigin, device: str, moved_bytes: int, started: float
) -> ModelMoved:
    """The event that a module was moved to a device. started: the time by ``perf_counter``."""
    return ModelMoved(*made, type(module).__name__, device, moved_bytes, time.perf_counter() - started)


@dataclass(eq=False)
class ResidentModel:
    """A module of the run: its origin, its weights, and the slots whose values contain it."""

    module: torch.nn.Module
    origin: ValueOrigin
    weights: list[Weight] = field(default_factory=list)
    slots: set[Slot] = field(default_factory=set)


class Residency:
    """The models of one run of a block, on the device or on the host.

    budget: bytes of weights that may be on the device at once. made: the origin of each slot's value. on_move: called
    with an event for each move.
    """

    def __init__(
        self,
        block: BlockPlan,
        mover: Mover,
        budget: int,
        device: str,
        made: Mapping[Slot, ValueOrigin],
        on_move: Callable[[ModelMoved], None],
    ):
        self.steps: Sequence[Step] = block.steps
        self.mover, self.budget, self.device = mover, budget, device
        self._origins, self._on_move = made, on_move
        self._weights = Weights(mover)
        self._models: dict[int, ResidentModel] = {}
        self._on_device: dict[int, ResidentModel] = {}
        self._in_slot: dict[Slot, list[ResidentModel]] = {}
        self._on_cpu = [loads_on_cpu(step.call) for step in block.steps]
        self._reads: dict[Slot, list[int]] = {}
        for i, step in enumerate(block.steps):
            for slot in set(step.reads):
                self._reads.setdefault(slot, []).append(i)

    def start(self, slots: Sequence[Any], outside_slots: Iterable[Slot], cached_slots: Iterable[Slot]) -> None:
        """Register the models that exist before the first step: passed by the caller, or from a cache.

        Raises ``NodeError`` for a step whose models are known to exceed the budget.
        """
        for slot in outside_slots:
            self._take_in(slot, slots[slot], pin=True)
        for slot in cached_slots:
            self._take_in(slot, slots[slot])
        self._release_unused(START, [*self._in_slot])

    def is_free(self, step: Step) -> bool:
        """Whether a step can run early on another thread: it neither reads nor makes models."""
        return not any(self._in_slot.get(slot) for slot in step.reads) and not loads_on_cpu(step.call)

    def prepare(self, i: int) -> None:
        """Move the models that step i reads to the device that it runs on. Raises ``BudgetError``."""
        models = self._models_read_by(self.steps[i])
        if self.runs_on_cpu(i):
            self._leave([model for model in self._on_device.values() if model in models])
            return
        self._check_budget(models)
        self._make_room(models, i)
        for model in models:
            started = time.perf_counter()
            self._on_device[id(model.module)] = model
            moved = sum([self._weights.enter(weight) for weight in model.weights])
            self._report(model, self.device, moved, started)

    def runs_on_cpu(self, i: int) -> bool:
        """Whether step i runs on the CPU: by its ports, and as no model that it reads is pinned to the device."""
        if not self._on_cpu[i]:
            return False
        return not any(weight.pinned for model in self._models_read_by(self.steps[i]) for weight in model.weights)

    def placement(self, i: int, dtype: str) -> AbstractContextManager[None]:
        """A context manager that sets the device and dtype of step i."""
        return use_device(self.mover.host if self.runs_on_cpu(i) else self.device, dtype)

    def move_outputs(self, i: int, slots: list[Any]) -> None:
        """Move tensors that a step on the CPU made along with models, such as a schedule's table, to the device."""
        if self.runs_on_cpu(i):
            for slot in self.steps[i].outs:
                slots[slot] = torch_private.pytree.tree_map(
                    lambda v: self.mover.to_device(v) if is_tensor(v) else v, slots[slot]
                )

    def finish(self, i: int, slots: Sequence[Any]) -> None:
        """Register the models that step i made, and release those that no later step reads.

        Raises ``NodeError`` for a later step whose models are known to exceed the budget.
        """
        for slot in self.steps[i].outs:
            self._take_in(slot, slots[slot])
        self._release_unused(i, self.steps[i].outs)

    def close(self) -> None:
        """Move all models off the device, also after an error."""
        self._leave(list(self._on_device.values()))
        for model in self._models.values():
            self._weights.forget(model.module, model.weights)
        self._models.clear()
        self._in_slot.clear()

    def _release_unused(self, i: int, made: Iterable[Slot]) -> None:
        done = [model for model in self._models.values() if self._next_use(model, i) is None]
        self._leave([model for model in done if id(model.module) in self._on_device])
        for model in done:
            self._weights.forget(model.module, model.weights)
            del self._models[id(model.module)]
            for slot in model.slots:
                self._in_slot[slot].remove(model)
        self._make_room([], i)
        later = {j for slot in made for j in self._reads.get(slot, ()) if j > i}
        for j in sorted(later):
            if not self.runs_on_cpu(j):
                try:
                    self._check_budget(self._models_read_by(self.steps[j]))
                except BudgetError as error:
                    raise node_error(self.steps[j], error) from error

    def _take_in(self, slot: Slot, value: Any, *, pin: bool = False) -> None:
        models = self._in_slot[slot] = []
        for module in find_models(value):
            model = self._models.setdefault(id(module), ResidentModel(module, self._origins.get(slot, FROM_OUTSIDE)))
            model.slots.add(slot)
            models.append(model)
            desired = self._weights_of()
            self._scan(model, pin=pin)
            if any(weight.resident and id(weight) not in desired for weight in model.weights):
                self._on_device[id(module)] = model

    def _scan(self, model: ResidentModel, *, pin: bool = False) -> None:
        """Update a model's list of weights: the module may have replaced buffers."""
        old_weights = model.weights
        model.weights = self._weights.of(model.module, pin=pin)
        kept_ids = {id(weight) for weight in model.weights}
        self._weights.forget(model.module, [weight for weight in old_weights if id(weight) not in kept_ids])

    def _models_read_by(self, step: Step) -> list[ResidentModel]:
        return list(dict.fromkeys(model for slot in step.reads for model in self._in_slot.get(slot, ())))

    def _next_use(self, model: ResidentModel, i: int) -> int | None:
        """The first step after i that reads a value with this model in it."""
        uses = [r[position] for s in model.slots if (position := bisect_right(r := self._reads.get(s, []), i)) < len(r)]
        return min(uses, default=None)

    def _weights_of(self, models: Iterable[ResidentModel] | None = None) -> dict[int, Weight]:
        """The weights of some models, each once; by default of the models on the device."""
        chosen = self._on_device.values() if models is None else models
        return {id(weight): weight for model in chosen for weight in model.weights}

    def _total_bytes(self, models: Iterable[ResidentModel]) -> int:
        return sum(weight.nbytes for weight in self._weights_of(models).values() if not weight.pinned)

    def _check_budget(self, models: Sequence[ResidentModel]) -> None:
        need = self._total_bytes(models)
        if need > self.budget:
            names = ", ".join(f"{type(m.module).__name__} {show_size(self._total_bytes([m]))}" for m in models)
            raise BudgetError(
                f"it reads models of {show_size(need)} ({names}), and the memory budget is {self.budget} bytes: give "
                f"{need} bytes or more"
            )

    def _make_room(self, needed: Sequence[ResidentModel], i: int) -> None:
        """Models leave, farthest next use first, until the others and those wanted are within the budget."""
        candidates = [model for model in self._on_device.values() if model not in needed]
        candidates.sort(key=lambda model: self._next_use(model, i) or len(self.steps))
        leaving: list[ResidentModel] = []
        while candidates and self._total_bytes([*needed, *candidates]) > self.budget:
            leaving.append(candidates.pop())
        self._leave(leaving)

    def _leave(self, models: Sequence[ResidentModel]) -> None:
        any_left = False
        for model in models:
            started = time.perf_counter()
            self._scan(model)
            del self._on_device[id(model.module)]
            kept_ids = self._weights_of()
            moved = sum([self._weights.leave(weight) for weight in model.weights if id(weight) not in kept_ids])
            self._report(model, self.mover.host, moved, started)
            any_left = any_left or moved > 0
        if any_left:
            self.mover.release()

    def _report(self, model: ResidentModel, device: str, moved: int, started: float) -> None:
        if moved:
            self._on_move(_make_event(model.module, model.origin, device, moved, started))


def loads_on_cpu(call: Call | None) -> bool:
    """Whether a call makes models and no tensors, or reads models, is marked ``host`` and returns only plain values.

    Calls of the first kind (``checkpoint.load``, ``lora.apply``) read models and plain values, or structured and plain
    values such as a schedule; a call that reads both may compute, and runs on the device. Calls of the second kind
    (``model.save``) read no tensors. Loops, batches and calls whose types leave it open run on the device.
    """
    if call is None:
        return False
    output_kinds = _all_kinds(call.outputs.values())
    fed = {*call.inputs}
    for name, sources in call.settings.items():  # a setting counts if it has a value other than a plain literal
        if any(not isinstance(source, Literal) or is_tensor(source.value) for source in list_sources(sources)):
            fed.add(name)
    input_kinds = _all_kinds(port.type for name, port in call.spec.ports.items() if name in fed)
    if "tensor" in output_kinds or "tensor" in input_kinds:
        return False
    if "model" in output_kinds:
        return input_kinds <= {"model", "plain"} or input_kinds <= {"structured", "plain"}
    return call.spec.host and output_kinds <= {"plain"} and "model" in input_kinds


def _all_kinds(ports: Iterable[PortType]) -> set[PortKind]:
    return {kind for port in ports for kind in port_kinds(port)}

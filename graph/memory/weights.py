"""The weights of models in a run, and moving them between host and device.

A weight is one tensor, even if several modules have it: copies that share tensors with the original (``lora.apply``,
``copy_frozen``) still share them after a move, and they count once. A move sets the parameter's ``data``, or the buffer
in its module, for the modules of the run only. Others that hold the old tensor, such as the caller whose module was
copied, keep it.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol, TypeAlias

from guidegraph.graph.frozen_models import is_module
from guidegraph.graph.late import torch
from guidegraph.graph.types import is_tensor

DEPTH = 6
"""How many levels of containers and objects are searched for models."""

_LEAVES = (str, bytes, int, float, complex, type(None), PurePath, Enum, type, ModuleType)

Key: TypeAlias = Hashable


class Mover(Protocol):
    """Moves tensors between a device and the host.

    host: the torch name of the device for models that are not in use.
    """

    host: str

    def on_device(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        ...

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the device."""
        ...

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host."""
        ...

    def release(self) -> None:
        """Called once after tensors have left the device."""
        ...


class TorchMover:
    """A torch device. ``release`` frees CUDA's unused blocks for other processes."""

    host = "cpu"

    def __init__(self, device: str):
        torch_device = torch.device(device)
        if torch_device.type == "cuda" and torch_device.index is None:
            torch_device = torch.device("cuda", torch.cuda.current_device())
        self.device = torch_device

    def on_device(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self.device

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.host)

    def release(self) -> None:
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.empty_cache()


def find_models(value: Any) -> list[torch.nn.Module]:
    """The modules in a value, each once and in order: the value itself, or inside containers, objects and closures."""
    models: dict[int, torch.nn.Module] = {}
    seen: set[int] = set()
    level: list[Any] = [value]
    for _ in range(DEPTH):
        next_level: list[Any] = []
        for item in level:
            if id(item) in seen or isinstance(item, _LEAVES) or is_tensor(item):
                continue
            seen.add(id(item))
            if is_module(item):
                models[id(item)] = item
            else:
                next_level += _list_items(item)
        level = next_level
    return list(models.values())


def _list_items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__,)
    if isinstance(value, FunctionType):
        contents = []
        for cell in value.__closure__ or ():
            try:
                contents.append(cell.cell_contents)
            except ValueError:  # it is empty
                continue
        return contents
    if is_dataclass(value):
        return [getattr(value, f.name, None) for f in fields(value)]
    return list(getattr(value, "__dict__", {}).values())


@dataclass(frozen=True)
class Place:
    """A weak reference to where a weight is stored: a parameter, or a module's buffer by name."""

    owner: weakref.ref[Any]
    buffer: str | None = None

    @property
    def id(self) -> Key:
        return id(self.owner()), self.buffer

    def get(self) -> torch.Tensor | None:
        """The current tensor; ``None`` if the owner no longer exists."""
        owner = self.owner()
        if owner is None:
            return None
        tensor: torch.Tensor | None = owner.data if self.buffer is None else owner._buffers.get(self.buffer)
        return tensor

    def set(self, tensor: torch.Tensor) -> None:
        owner = self.owner()
        if owner is None:
            return
        if self.buffer is None:
            owner.data = tensor
        else:
            owner._buffers[self.buffer] = tensor


def list_slots(module: torch.nn.Module) -> Iterator[Place]:
    """The slots of all parameters and buffers of a module; a shared parameter comes as often as it is used."""
    for inner in module.modules():
        for parameter in inner._parameters.values():
            if parameter is not None:
                yield Place(weakref.ref(parameter))
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                yield Place(weakref.ref(inner), name)


def _memory_key(tensor: torch.Tensor) -> Key:
    """A key that is equal for two views of the same memory with the same shape and dtype while either is alive."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


@dataclass(eq=False)
class Weight:
    """One tensor of the models of a run.

    host: the copy on the host. It is kept while the weight is on the device, since weights never change: moving back
    needs no transfer, and memory-mapped weights stay mapped. device: the copy on the device. At least one is set.
    models: the ids of the modules that have it. pinned: the caller put it on the device, so it is not moved and does
    not count.
    """

    nbytes: int
    host: torch.Tensor | None
    device: torch.Tensor | None
    slots: dict[Key, Place] = field(default_factory=dict)
    models: set[int] = field(default_factory=set)
    pinned: bool = False

    @property
    def resident(self) -> bool:
        """Whether it counts as memory in use on the device."""
        return self.device is not None and not self.pinned


class Weights:
    """All weights of a run.

    Tensors that are not plain strided ones, such as quantised and sparse ones, are not moved and do not count.
    strict: such a tensor is an error unless it is on the device.
    """

    def __init__(self, mover: Mover, *, strict: bool = True):
        self.mover, self.strict = mover, strict
        self._by_memory: dict[Key, Weight] = {}

    def of(self, module: torch.nn.Module, *, pin: bool = False) -> list[Weight]:
        """The current weights of a module, each once. pin: new weights that are on the device stay there.

        Raises ``ValueError`` for weights that cannot be moved and are not on the device.
        """
        weights: dict[int, Weight] = {}
        for slot in list_slots(module):
            tensor = slot.get()
            if tensor is None or tensor.is_meta:
                continue
            if tensor.layout is not torch.strided or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                if self.strict and not self.mover.on_device(tensor):
                    raise ValueError(
                        f"weights of the type {type(tensor).__name__} cannot be moved: run without a memory budget"
                    )
                continue
            weight = self._by_memory.get(_memory_key(tensor))
            if weight is None:
                on_device = self.mover.on_device(tensor)
                size = tensor.numel() * tensor.element_size()
                weight = Weight(
                    size, None if on_device else tensor, tensor if on_device else None, pinned=pin and on_device
                )
                self._by_memory[_memory_key(tensor)] = weight
            weight.slots[slot.id] = slot
            weight.models.add(id(module))
            weights[id(weight)] = weight
        return list(weights.values())

    def enter(self, weight: Weight) -> int:
        """Move a weight to the device and return the number of bytes moved."""
        if weight.device is not None:
            return 0
        assert weight.host is not None
        weight.device = self.mover.to_device(weight.host)
        self._by_memory[_memory_key(weight.device)] = weight
        self._point_slots(weight, weight.host, weight.device)
        return weight.nbytes

    def leave(self, weight: Weight) -> int:
        """Move a weight off the device and return the number of bytes freed."""
        if weight.device is None or weight.pinned:
            return 0
        if weight.host is None:
            weight.host = self.mover.to_host(weight.device)
            self._by_memory[_memory_key(weight.host)] = weight
        self._point_slots(weight, weight.device, weight.host)
        del self._by_memory[_memory_key(weight.device)]
        weight.device = None
        return weight.nbytes

    def forget(self, module: torch.nn.Module, weights: Iterable[Weight]) -> None:
        """Forget a module; weights that no other module has are dropped."""
        for weight in weights:
            weight.models.discard(id(module))
            if not weight.models:
                for tensor in (weight.host, weight.device):
                    if tensor is not None:
                        self._by_memory.pop(_memory_key(tensor), None)

    def _point_slots(self, weight: Weight, old_tensor: torch.Tensor, new_tensor: torch.Tensor) -> None:
        """Set the new tensor in all slots that hold the weight; slots that hold another tensor by now are dropped."""
        old_key = _memory_key(old_tensor)
        for slot_key, slot in list(weight.slots.items()):
            tensor = slot.get()
            if tensor is not None and _memory_key(tensor) in (old_key, _memory_key(new_tensor)):
                slot.set(new_tensor)
            else:
                del weight.slots[slot_key]

"""The weights of models in a run: which tensors they are, where they are, and how they change places.

A weight is one tensor, however many modules have it: a copy that shares tensors with its origin (``lora.apply``,
``frozen_copy``) shares them after a move too, and they count once. Only the modules of the run are pointed to the
moved tensor, by the parameter's ``data`` or the buffer's entry in its module; whoever else holds the old tensor, such
as the caller whose module was copied, keeps it.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from guidegraph.graph.models import is_module
from guidegraph.graph.types import is_tensor

if TYPE_CHECKING:
    import torch

DEPTH = 6
"""How many levels of containers and objects are looked through for models."""

_LEAVES = (str, bytes, int, float, complex, type(None), PurePath, Enum, type, ModuleType)

Key: TypeAlias = Hashable


class Mover(Protocol):
    """A device, as the engine sees it: what is there, and how a tensor gets there and back.

    host: the torch name of the device that models wait on.
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
    """A device of torch. ``release`` gives CUDA's unused blocks back, so that other processes can have them."""

    host = "cpu"

    def __init__(self, device: str):
        import torch

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
        import torch

        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.empty_cache()


def models_in(value: Any) -> list[torch.nn.Module]:
    """The modules in a value: itself, or in containers, dataclasses, objects and closures, each once and in order."""
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
        return [cell.cell_contents for cell in value.__closure__ or () if _has_contents(cell)]
    if is_dataclass(value):
        return [getattr(value, f.name, None) for f in fields(value)]
    return list(getattr(value, "__dict__", {}).values())


def _has_contents(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class Place:
    """Where a module keeps a weight: a parameter, or a buffer by its name in its module. It keeps neither alive."""

    owner: weakref.ref[Any]
    buffer: str | None = None

    @property
    def id(self) -> Key:
        return id(self.owner()), self.buffer

    def get(self) -> torch.Tensor | None:
        """The tensor that is there now; ``None`` once the owner is gone."""
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


def places(module: torch.nn.Module) -> Iterator[Place]:
    """The places of all parameters and buffers of a module; a parameter that it has twice comes twice."""
    for inner in module.modules():
        for parameter in inner._parameters.values():
            if parameter is not None:
                yield Place(weakref.ref(parameter))
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                yield Place(weakref.ref(inner), name)


def _is_plain_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor is memory and nothing else; quantised and sparse ones are more."""
    import torch

    return tensor.layout is torch.strided and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _memory_key(tensor: torch.Tensor) -> Key:
    """What two views of the same memory, of the same shape and dtype, have in common while either is alive."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


@dataclass(eq=False)
class Weight:
    """One tensor of the models of a run.

    host: the copy on the host, kept while the weight is on the device too, since weights never change: leaving then
    costs no transfer, and memory-mapped weights stay mapped. device: the copy on the device. At least one is set.
    models: the ids of the modules that have it. pinned: the caller had it on the device, so it is not moved and
    does not count.
    """

    nbytes: int
    host: torch.Tensor | None
    device: torch.Tensor | None
    slots: dict[Key, Place] = field(default_factory=dict)
    models: set[int] = field(default_factory=set)
    pinned: bool = False

    @property
    def resident(self) -> bool:
        """Whether it takes memory on the device that counts."""
        return self.device is not None and not self.pinned


class Weights:
    """All weights of a run, by their tensors.

    Tensors that are more than memory, such as quantised ones, stay where they are and do not count; ``strict``: one
    that is not on the device is an error.
    """

    def __init__(self, mover: Mover, *, strict: bool = True):
        self.mover, self.strict = mover, strict
        self._by_memory: dict[Key, Weight] = {}

    def of(self, module: torch.nn.Module, *, pin: bool = False) -> list[Weight]:
        """The weights that a module has now, each once. ``pin``: those that are new and on the device stay there.

        Raises ``ValueError`` for weights that cannot be moved and are not on the device.
        """
        weights: dict[int, Weight] = {}
        for slot in places(module):
            tensor = slot.get()
            if tensor is None or tensor.is_meta:
                continue
            if not _is_plain_memory(tensor):
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
        """Bring a weight to the device; gives the bytes that were moved."""
        if weight.device is not None:
            return 0
        assert weight.host is not None
        weight.device = self.mover.to_device(weight.host)
        self._by_memory[_memory_key(weight.device)] = weight
        self._point_slots(weight, weight.host, weight.device)
        return weight.nbytes

    def leave(self, weight: Weight) -> int:
        """Take a weight off the device; gives the bytes that are free there now."""
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
        """A module is of no more concern; weights that no other module has are dropped."""
        for weight in weights:
            weight.models.discard(id(module))
            if not weight.models:
                for tensor in (weight.host, weight.device):
                    if tensor is not None:
                        self._by_memory.pop(_memory_key(tensor), None)

    def _point_slots(self, weight: Weight, old_tensor: torch.Tensor, new_tensor: torch.Tensor) -> None:
        """Where a module has put another tensor in the meantime, that one stays."""
        old_key = _memory_key(old_tensor)
        for slot_key, slot in list(weight.slots.items()):
            tensor = slot.get()
            if tensor is not None and _memory_key(tensor) in (old_key, _memory_key(new_tensor)):
                slot.set(new_tensor)
            else:
                del weight.slots[slot_key]

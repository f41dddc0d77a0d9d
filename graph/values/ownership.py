"""Ownership of values: copies of whatever enters or leaves a run, and seals on cached values.

Parameters, outputs and previews are copied, so that no caller shares memory with a cache, a constant of a node or a
literal of the workflow. Inside a run values are shared and must not be changed in place; a seal detects changes.
"""

from __future__ import annotations

import copy
import logging
import sys
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from guidegraph.graph.frozen_models import copy_frozen, deepcopy_module, is_module
from guidegraph.graph.late import torch
from guidegraph.graph.types import is_tensor, is_tensor_class
from guidegraph.graph.values.serialise import tensor_bytes

log = logging.getLogger(__name__)

K = TypeVar("K")

READ_LIMIT = 64 << 20
"""Sealed values of up to this many bytes are read in full; larger ones in evenly spaced blocks."""

BLOCK = 64 << 10
DEPTH = 8
"""How many levels of containers and objects are searched."""

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, type, ModuleType)


def copy_value(value: Any, copy_model: Callable[[Any], Any] | None = None) -> Any:
    """A copy that shares no memory with a value: the whole tree of containers, dataclasses, tensors and arrays.

    Tensors are copied without their autograd graph, modules with their weights or by ``copy_model``. Objects that are
    shared inside the value are shared inside the copy. Objects of other classes, functions and memory-mapped arrays are
    not copied. Raises ``ValueError`` for values that are nested too deeply.
    """
    try:
        return _copy(value, {}, copy_model or copy_module)
    except RecursionError:
        raise ValueError(f"a value of type {type(value).__name__} is nested too deeply to be copied") from None


def copy_parameter(value: Any) -> Any:
    """A copy of a parameter for a run; the weights of models are shared (``copy_frozen``)."""
    return copy_value(value, copy_frozen)


def is_mutable(value: Any) -> bool:
    """Whether a literal can be changed in place: a list, a dict, or a tuple that contains one."""
    return isinstance(value, (list, dict)) or (isinstance(value, tuple) and any(map(is_mutable, value)))


def copy_module(module: Any, device: str | None = None) -> Any:
    """A frozen copy of a module with its own weights, moved to ``device`` if that is given."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        weight = tensor.detach().to(device or tensor.device, copy=True)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(weight, requires_grad=False) if is_parameter else weight
    try:
        return deepcopy_module(module, memo)
    except Exception as error:
        log.warning("a %s cannot be copied, and is handed out as it is: %s", type(module).__name__, error)
        return module


def _copy(value: Any, memo: dict[int, Any], copy_model: Callable[[Any], Any]) -> Any:
    if isinstance(value, _IMMUTABLE):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if is_tensor(value):
        result = value.detach().clone()
    elif is_module(value):
        result = copy_model(value)
    elif isinstance(value, tuple):
        items = [_copy(item, memo, copy_model) for item in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        is_named_tuple = hasattr(value, "_fields")  # also torch's own classes, such as that of torch.max
        result = value if same else tuple.__new__(type(value), items) if is_named_tuple else type(value)(items)
    elif isinstance(value, (list, dict)):
        result = memo[id(value)] = copy.copy(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            result[key] = _copy(item, memo, copy_model)
    elif is_dataclass(value):
        result = memo[id(value)] = copy.copy(value)
        for field_info in fields(value):
            if hasattr(value, field_info.name):
                object.__setattr__(result, field_info.name, _copy(getattr(value, field_info.name), memo, copy_model))
    elif isinstance(value, (set, bytearray)) or (_is_array(value) and not _is_mapped(value)):
        result = copy.copy(value)
    elif (pillow := sys.modules.get("PIL.Image")) is not None and isinstance(value, pillow.Image):
        result = value.copy()
        result.format = value.format
    else:
        result = value
    memo[id(value)] = result
    return result


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_mapped(array: Any) -> bool:
    """Whether an array, or its base, is memory-mapped: it may then be larger than the memory."""
    numpy = sys.modules["numpy"]
    while array is not None:
        if isinstance(array, numpy.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@dataclass(frozen=True)
class Seal:
    """The state of a value: the version counters of its tensors, and a checksum of its data.

    The counters miss writes through NumPy or ``.data``. The checksum sees them: it covers CPU tensors, arrays and plain
    data in containers and dataclasses, in full up to ``READ_LIMIT`` bytes and as a sample beyond. It leaves out
    modules; of objects of unknown classes it covers the arrays and CPU tensors that they held when the seal was made.
    """

    tensors: tuple[tuple[weakref.ref[torch.Tensor], int], ...]
    held: tuple[Any, ...]
    checksum: int

    @classmethod
    def of(cls, value: Any) -> Seal:
        """The seal of a value as it is now."""
        if _is_immutable(value):
            return IMMUTABLE_SEAL
        tensors, held = _find_tensors(value)
        return cls(
            tuple((weakref.ref(tensor), change_count(tensor)) for tensor in tensors), held, _checksum((value, held))
        )

    def matches(self, value: Any) -> bool:
        """Whether the value is unchanged, as far as the seal can tell."""
        if self is IMMUTABLE_SEAL:
            return True
        for reference, count in self.tensors:
            tensor = reference()
            if tensor is not None and change_count(tensor) != count:
                return False
        return _checksum((value, self.held)) == self.checksum


IMMUTABLE_SEAL = Seal((), (), 0)
"""The seal of every value that cannot be changed in place."""


def _is_immutable(value: Any) -> bool:
    """Whether a value is an immutable plain value, or a tuple of such values."""
    return isinstance(value, _IMMUTABLE) or (type(value) is tuple and all(map(_is_immutable, value)))


def change_count(tensor: torch.Tensor) -> int:
    """Torch's counter of in-place changes; 0 for tensors of inference mode, which have none."""
    return 0 if tensor.is_inference() else tensor._version


def count_changes(tensors: Iterable[torch.Tensor]) -> list[int]:
    """`change_count` of each tensor."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


ValueState: TypeAlias = tuple[int, ...]
"""Torch's version counters in a value, and the identities of its containers' elements."""
DEPTH = 4
"""Containers in one another that a state covers."""


def find_states(values: Mapping[K, Any]) -> dict[K, ValueState]:
    """For each value, a state that changes if its tensors, lists or dicts change in place.

    Models and objects of other classes are not inspected.
    """
    states: dict[K, ValueState] = {}
    for key, value in values.items():
        state: list[int] = []
        _add_state(value, DEPTH, state)
        states[key] = tuple(state)
    return states


def _add_state(value: Any, depth: int, state: list[int]) -> None:
    kind: Any = type(value)
    if is_tensor_class(kind):
        state.append(0 if value.is_inference() else value._version)
    elif depth and isinstance(value, (list, tuple, dict)):
        items = [*value.values()] if isinstance(value, dict) else value
        if not isinstance(value, tuple):
            state += (len(value), *map(id, items))
        for item in items:
            _add_state(item, depth - 1, state)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _add_state(getattr(value, field.name, None), depth - 1, state)


def _find_tensors(value: Any) -> tuple[list[torch.Tensor], tuple[Any, ...]]:
    """All tensors in a value, also inside modules and objects; and the arrays and CPU tensors in objects."""
    tensors: list[torch.Tensor] = []
    held: list[Any] = []
    seen: set[int] = set()
    level: list[tuple[Any, bool]] = [(value, False)]
    for _ in range(DEPTH):
        next_level: list[tuple[Any, bool]] = []
        for piece, in_object in level:
            if id(piece) in seen:
                continue
            seen.add(id(piece))
            if is_module(piece):
                tensors += [*piece.parameters(), *piece.buffers()]
            elif is_tensor(piece) or _is_array(piece):
                tensors += [piece] if is_tensor(piece) else []
                held += [piece] if in_object and (_is_array(piece) or piece.device.type == "cpu") else []
            else:
                inner = _list_items(piece)
                opaque = inner is None
                objects = list(getattr(piece, "__dict__", {}).values()) if inner is None else list(inner)
                next_level += [(item, in_object or opaque) for item in objects if not isinstance(item, _IMMUTABLE)]
        level = next_level
    return tensors, tuple(held)


def _list_items(value: Any) -> Iterable[Any] | None:
    """The items of a container or the field values of a dataclass; ``None`` for anything else."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    return [getattr(value, field_info.name, None) for field_info in fields(value)] if is_dataclass(value) else None


def _checksum(value: Any) -> int:
    crc = 0
    pieces = [bytes(piece) if isinstance(piece, bytearray) else piece for piece in _pieces(value, DEPTH)]
    total = sum(len(piece) for piece in pieces)
    step = -(-total // READ_LIMIT) or 1
    for piece in pieces:
        if step == 1 or len(piece) <= BLOCK:
            crc = zlib.crc32(piece, crc)
            continue
        for start in (*range(0, len(piece), step * BLOCK), len(piece) - BLOCK):
            crc = zlib.crc32(piece[start : start + BLOCK], crc)
    return crc


def _pieces(value: Any, depth: int) -> Iterator[Any]:
    """The bytes of a value and its contents, piece by piece."""
    if is_tensor(value):
        yield f"{value.dtype} {'nested' if value.is_nested else tuple(value.shape)}".encode()
        is_plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.device.type == "cpu"
        if is_plain and value.layout is torch.strided and not (value.is_quantized or value.is_nested):
            yield tensor_bytes(value)
    elif _is_array(value):
        yield f"{value.dtype} {value.shape}".encode()
        if not value.dtype.hasobject and not _is_mapped(value):
            yield memoryview(value.tobytes() if not value.flags.c_contiguous else value.reshape(-1).view("u1"))
    elif isinstance(value, _IMMUTABLE) or (type(value) is list and all(isinstance(item, _IMMUTABLE) for item in value)):
        yield repr(value).encode(errors="surrogatepass")
    elif isinstance(value, bytearray):
        yield value
    elif depth and (inner := _list_items(value)) is not None:
        children = list(inner)
        yield f"{type(value).__name__} {len(children)} {list(value) if isinstance(value, dict) else ''}".encode(
            errors="surrogatepass"
        )
        for child in children:
            yield from _pieces(child, depth - 1)
    else:
        yield type(value).__name__.encode()

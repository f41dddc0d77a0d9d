"""The values that a part reads: tensors, which are its inputs, and everything else, which it is specialised on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from guidegraph.graph import torch_private
from guidegraph.graph.errors import NodeError, PortError
from guidegraph.graph.ir import Call
from guidegraph.graph.late import torch
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.planning.digest import FRESH, value_digest
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.sources import Index, Many, Output, Source
from guidegraph.graph.types import PortType, describe_value, fields_of_structure, is_tensor
from guidegraph_runtime.error_text import describe_error

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 2e-4
"""How far a graph's first results may be from torch's, as a part of the largest of them (or of 1). A picture of a range
of 2 may differ by 2/255, and a sampler of 30 steps may add up the differences."""

HALF_TOLERANCE = 2e-2
"""The same for float16 and bfloat16."""


class Unsuitable(Exception):
    """A part cannot be accelerated for the values that it reads; the message says why."""


@dataclass(frozen=True)
class Reading:
    """A value that a part reads or returns: its source, slot and type."""

    source: Source
    slot: int
    kind: PortType | None


@dataclass(frozen=True)
class FlatValue:
    """A value as tensors, in the order of its pytree, and a text that describes the rest of it.

    constant: it is part of the graph, since a run cannot replace any tensor of it.
    """

    tensors: tuple[Tensor, ...]
    guard: str
    constant: bool = False


FIT = "fit_to_inputs"
"""A method of structured types whose values may start without the sizes of the others, as a sampler's state does.

It gets the inputs of a call that reads the value, as far as they are known, and returns a value with their sizes, or
the same value if the sizes cannot be read from them.
"""


def can_fit(value: Any) -> bool:
    """Whether a value is of a structured type with a method ``FIT``; a field of that name is none."""
    fields = fields_of_structure(type(value))
    return fields is not None and FIT not in fields and isfunction(getattr(type(value), FIT, None))


def fit_value(value: Any, reading: Reading, calls: Sequence[Call], by_source: Mapping[Source, Any]) -> Any:
    """A value that a part reads, with the sizes that the first of its readers to know them gives it.

    calls: of the part. by_source: the values that the part reads. Raises ``NodeError`` if the type's method fails.
    """
    for call in calls:
        ports = {name: source for name, source in call.arguments() if not isinstance(source, Many)}
        port = next((name for name, source in ports.items() if source == reading.source), None)
        if port is None:
            continue
        inputs = {name: by_source[source] for name, source in ports.items() if source in by_source}
        try:
            fitted = getattr(value, FIT)(inputs)
            if type(fitted) is not type(value):
                raise TypeError(f"expected a {type(value).__name__}; found {describe_value(fitted)}")
        except Exception as error:
            reason = f"{type(value).__name__}.{FIT} failed: {describe_error(error)}"
            problem = PortError(port, f"{reason}: mend it, or run without acceleration")
            raise NodeError(f"nodes.{call.key}", call.node_id, call.marks.get(port, call.mark), problem) from error
        if fitted is not value:
            return fitted
    return value


def flatten_value(reading: Reading, value: Any, plan: Plan) -> FlatValue:
    """A value that a part reads, as tensors and a guard. Raises ``Unsuitable`` if nothing identifies the rest of it."""
    if is_tensor(value):
        return FlatValue((value,), "tensor")
    if isinstance(value, float):
        return FlatValue((torch.tensor(value, dtype=torch.float32),), "float")
    if isinstance(reading.source, Index):
        return FlatValue((torch.tensor(value, dtype=torch.int64),), "index")
    if find_models(value):
        return FlatValue((), digest_model(reading.source, plan), constant=True)
    leaves, spec = torch_private.pytree.tree_flatten(value)
    tensors = tuple(leaf for leaf in leaves if is_tensor(leaf))
    digests: list[str] = []
    for leaf in leaves:
        if is_tensor(leaf):
            continue
        digests.append(value_digest(leaf))
        if digests[-1].startswith(FRESH):
            kind = type(leaf).__name__
            raise Unsuitable(f"{describe_source(reading.source)} has a {kind} in it, which has no digest")
    return FlatValue(tensors, f"{spec!r} {digests}", constant=not tensors)


def digest_model(source: Source, plan: Plan) -> str:
    """The digest of a model that an operation outside of all loops made. Raises ``Unsuitable`` for any other."""
    digest = plan.digests.source(source) if isinstance(source, Output) and source.op in plan.ops else FRESH
    if digest.startswith(FRESH):
        raise Unsuitable(
            f"{describe_source(source)} gives a model that nothing identifies in another run: it is made in a "
            "loop, by a node that is not pure, or of an object from Python"
        )
    return digest


def describe_source(source: Source) -> str:
    """A source for messages."""
    return f"nodes.{source.op}" if isinstance(source, Output) else str(source)


def list_tensors(value: Any) -> list[Tensor]:
    """The tensors of a value, in the order of its pytree."""
    return [leaf for leaf in torch_private.pytree.tree_leaves(value) if is_tensor(leaf)]


def empty_copy(value: Any) -> Any:
    """A value with tensors without elements in place of its own."""
    return torch_private.pytree.tree_map(lambda leaf: torch.empty(0) if is_tensor(leaf) else leaf, value)


def find_repeated(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[bool, ...]:
    """Which outputs of a graph have for each sample what torch has once, (1, …), for the whole batch.

    A graph takes a leading axis of 1 repeated for the batch, as a sampler's state with one row for all samples, and
    may return it so.
    """
    return tuple(
        output.ndim == target.ndim > 0 and output.shape[1:] == target.shape[1:] and len(target) == 1 < len(output)
        for output, target in zip(outputs, expected, strict=False)
    )


def compare(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    """The difference between the results of a graph and of torch, if it is too large; empty if they agree.

    A result that a graph has repeated must agree in each sample.
    """
    if len(outputs) != len(expected):
        return f"its graph gives {len(outputs)} tensors in place of {len(expected)}"
    for output, result, repeat in zip(outputs, expected, find_repeated(outputs, expected), strict=True):
        target = result.expand(output.shape) if repeat else result
        if output.shape != target.shape or output.dtype != target.dtype:
            sizes = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (output, target)]
            return f"its graph gives {sizes[0]} in place of {sizes[1]}"
        exact = not target.is_floating_point()
        half = target.is_floating_point() and target.element_size() == 2
        a, b = output.double(), target.double()
        limit = 0.0 if exact else (HALF_TOLERANCE if half else TOLERANCE) * max(1.0, _largest(b))
        difference = (a - b).nan_to_num(0.0, 0.0, 0.0) if bool((a.isfinite() == b.isfinite()).all()) else None
        if difference is None or _largest(difference) > limit:
            text = "not finite where torch's are" if difference is None else f"{_largest(difference):.2g} from torch's"
            return f"the results of its graph are {text}"
    return ""


def _largest(tensor: Tensor) -> float:
    """The largest finite absolute value."""
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0

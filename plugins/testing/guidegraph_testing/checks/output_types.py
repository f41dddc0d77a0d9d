"""The outputs of a node have the types that its signature declares, and the right shapes at several sizes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegraph.graph.literals import convert_literal
from guidegraph.graph.types import (
    PortType,
    SequenceOf,
    describe_value,
    explain_mismatch,
    is_tensor,
    structured_types,
    takes_literal,
    to_port_type,
)
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.types import Condition, Prediction, SchedulerState, Score
from guidegraph_testing.arguments import (
    WIDER,
    Arguments,
    batch_size,
    call_node,
    call_or_none,
    declares_axes,
    make_arguments,
    output_leaves,
    vary_arguments,
    widen,
    wire_optional_ports,
)
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming
from guidegraph_testing.comparison import difference, rounding_tolerance


def check_types(case: NodeCase) -> None:
    """Every default and every output match their annotations in depth, and every `Sequence` port takes any sequence.

    Also for one sample, each choice of a setting and each optional port, if these values are compatible.
    """
    check_defaults(case)
    if not case.spec.outputs:
        return
    args = make_arguments(case)
    _check_types_of(case, call_node(case, args), "")
    check_sequences(case)
    if case.spec.host or not case.spec.pure:
        return
    for description, other in vary_arguments(case, args):
        if (outputs := call_or_none(case, other)) is not None:
            _check_types_of(case, outputs, f" under {description}")


def check_defaults(case: NodeCase) -> None:
    """Each default is a value that a workflow could give. Raises ``Nonconforming`` for the first that is not."""
    for port in case.spec.ports.values():
        if port.required or not (takes_literal(port.type) or port.default is None):
            continue
        try:
            convert_literal(port, port.default, Path())
        except ValueError as error:
            raise case.error(
                f"the default of '{port.name}' to fit its annotation",
                str(error),
                "correct the default, or the annotation: a default is not checked when the node runs",
            ) from None


def check_shapes(case: NodeCase) -> None:
    """Inputs and outputs have the same batch, a score has the shape of a sample, and another width works too."""
    args = make_arguments(case)
    if not any(True for _ in args.leaves(case)):
        raise Inapplicable("no input is a tensor")
    outputs = call_node(case, args)
    if not any(True for _ in output_leaves(case, outputs)):
        raise Inapplicable("no output is a tensor")
    _check_batch(case, args, outputs)
    _check_sample_shapes(case, args, outputs)
    wide = args.map_tensors(case, widen)
    pairs = zip(args.leaves(case), wide.leaves(case), strict=True)
    if any(leaf.tensor.shape != other.tensor.shape for (_, leaf), (_, other) in pairs):
        try:
            _check_types_of(case, call_node(case, wide), f" at a width that is larger by {WIDER}")
        except Nonconforming as error:
            raise case.error(f"a result at a width that is larger by {WIDER}", error.found, error.remedy) from error


def _check_types_of(case: NodeCase, outputs: Mapping[str, Any], condition: str) -> None:
    for name, kind in case.spec.outputs.items():
        value = outputs[name]
        reason = why_mismatched(value, kind) or why_lacking(value, kind)
        if reason:
            raise case.error(
                f"output '{name}' to be {kind}{condition}",
                reason,
                "return what the annotation says, or correct the annotation",
            )


def _check_batch(case: NodeCase, args: Arguments, outputs: Mapping[str, Any]) -> None:
    batch = batch_size(case, args)
    if batch is None:
        return
    for name, value in outputs.items():
        kind = case.spec.outputs[name]
        shared = isinstance(value, (Condition, SchedulerState, StepContext))  # one row for all samples, or one for each
        for path, leaf in output_leaves(case, {name: value}):
            if not declares_axes(kind, value, leaf) or "B" not in leaf.axes:
                continue
            size = leaf.tensor.shape[leaf.axes.index("B")]
            if size != batch and not (shared and size == 1):
                raise case.error(
                    f"output '{path}' to be of {batch} samples, as the inputs are",
                    f"shape {tuple(leaf.tensor.shape)}",
                    "keep the batch axis: x.shape[0], not a number; a value for all samples is expanded",
                )


def _check_sample_shapes(case: NodeCase, args: Arguments, outputs: Mapping[str, Any]) -> None:
    """A score has the shape of x; a prediction's variance that of its value."""
    shapes = {tuple(leaf.tensor.shape) for _, leaf in args.leaves(case) if leaf.tensor.ndim == 4}
    for name, value in outputs.items():
        kind = case.spec.outputs[name]
        if Score in kind.alternatives and is_tensor(value) and shapes and tuple(value.shape) not in shapes:
            raise case.error(
                f"output '{name}', a score, in the shape of x",
                f"shape {tuple(value.shape)}; inputs have {', '.join(map(str, sorted(shapes)))}",
                "return the gradient with respect to x, in its shape",
            )
        if isinstance(value, Prediction) and value.variance is not None and value.variance.shape != value.value.shape:
            raise case.error(
                f"output '{name}' with a variance in the shape of its value",
                f"{tuple(value.variance.shape)} and {tuple(value.value.shape)}",
                "keep the variance of one of the inputs: dataclasses.replace(prediction, value=…)",
            )


def why_mismatched(value: Any, kind: PortType) -> str | None:
    """Why a value does not match a type, naming the wrong element; None if it matches.

    Of a lazy sequence only the first and the last element are examined.
    """
    if reason := explain_mismatch(value, kind):
        return reason
    for location, element, inner in _elements(value, kind):
        if reason := why_mismatched(element, inner):
            return f"{location}: {reason}"
    return _find_wrong_field(value)


def _elements(value: Any, kind: PortType) -> Iterator[tuple[str, Any, PortType]]:
    """The elements of a value, each with its name and its type."""
    fields = _fields(value)
    if fields:
        hints = typing.get_type_hints(type(value), include_extras=True)
        yield from ((f"field '{name}'", getattr(value, name), to_port_type(hints.get(name, Any))) for name in fields)
        return
    element = kind.sequence.element if kind.sequence is not None else None
    if element is None or isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        return
    concrete = isinstance(value, (list, tuple))
    indices = range(len(value)) if concrete else sorted({0, len(value) - 1})
    yield from ((f"entry {i}", value[i], element) for i in indices)


def _fields(value: Any) -> list[str]:
    """The names of the fields of a NamedTuple or of a structured value."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._fields)
    if type(value) in structured_types().values():
        return [field.name for field in dataclasses.fields(value)]
    return []


def _find_wrong_field(value: Any) -> str | None:
    """Why a field lacks its declared axes, or is not among the choices of its ``Literal``; None if all are right.

    In place of a tensor with axes a vector or a number is accepted too. A sampler's state, for instance, starts as one
    zero per slot, and gets the axes of a sample with the first step.
    """
    declared: Mapping[str, Sequence[str | int]] = getattr(type(value), "leaf_axes", {})
    names = _fields(value)
    for name in names:
        field_value = getattr(value, name)
        if is_tensor(field_value) and name in declared and field_value.ndim not in (0, 1, len(declared[name])):
            axes = ", ".join(map(str, declared[name]))
            return f"field '{name}': expected axes ({axes}), found {describe_value(field_value)}"
    hints = typing.get_type_hints(type(value), include_extras=True) if names else {}
    for name in names:
        choices = typing.get_args(hints.get(name)) if typing.get_origin(hints.get(name)) is typing.Literal else ()
        if choices and getattr(value, name) not in choices:
            expected = ", ".join(map(repr, choices))
            return f"field '{name}': expected one of {expected}, found {getattr(value, name)!r:.40}"
    return None


def why_lacking(value: Any, kind: PortType) -> str | None:
    """Why a model does not satisfy a protocol; None if it does. A function satisfies a callable protocol."""
    if value is None or not kind.alternatives:
        return None
    protocols = [a for a in kind.alternatives if not isinstance(a, SequenceOf) and getattr(a, "_is_protocol", False)]
    checked: list[Any] = [p for p in protocols if getattr(p, "_is_runtime_protocol", False)]
    if len(protocols) < len(kind.alternatives) or len(checked) < len(protocols):
        return None
    return None if any(isinstance(value, p) for p in checked) else f"{describe_value(value)} lacks methods of {kind}"


REMEDY = (
    "use a sequence by its length and its elements alone: list(values) before a method of lists, [*values, x] for "
    "values + [x]"
)


class CustomSequence(Sequence[Any]):
    """A sequence that is neither a list nor a tuple, like a data set."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


def check_sequences(case: NodeCase) -> None:
    """Lists, tuples and other sequences give equal results; one element is accepted, or raises ``ValueError``."""
    for name, args in _sequences(case):
        values = list(args.ports[name])
        expected = call_node(case, args.with_port(name, list(values)))
        others = {"a list": values, "a tuple": tuple(values), "a sequence of another class": CustomSequence(values)}
        for description, other in others.items():
            same = f"{description} at port '{name}' as good as a list"
            try:
                outputs = call_node(case, args.with_port(name, other))
            except Nonconforming as error:
                raise case.error(same, error.found, REMEDY) from error
            if (deviation := difference(outputs, expected)) > rounding_tolerance(expected):
                raise case.error(same, f"a result that differs by {deviation:.1e}", REMEDY)
        try:
            call_node(case, args.with_port(name, values[:1]))
        except Nonconforming as error:
            if isinstance(error.__cause__, ValueError):  # raised by the node: its ports are incompatible
                continue
            raise case.error(
                f"a result for one entry at port '{name}', or a ValueError that says why not",
                error.found,
                "do not assume that there are two elements",
            ) from error


def _has_length(annotation: Any) -> bool:
    """Whether an annotation is, or holds, a tuple of a fixed length."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return Ellipsis not in inner
    return any(map(_has_length, inner))


def _sequences(case: NodeCase) -> Iterator[tuple[str, Arguments]]:
    """Each port that takes a sequence, with arguments in which it is wired."""
    args = make_arguments(case)
    ports = {
        name
        for name, port in case.spec.inputs.items()
        if port.type.sequence is not None and not _has_length(port.annotation)
    }
    yield from ((name, args) for name in ports if isinstance(args.ports.get(name), (list, tuple)))
    for name, wired in wire_optional_ports(case, args):
        if name in ports and isinstance(wired.ports[name], (list, tuple)) and call_or_none(case, wired):
            yield name, wired

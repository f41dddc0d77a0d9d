"""Tracing the parts of a workflow: with free sizes where they can be, at a precision, with errors that name a node."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from guidegraph.graph.device_context import use_device
from guidegraph.graph.errors import NodeError, suggest
from guidegraph.graph.export.errors import ExportError, FixedSizeError, NoSuchPart
from guidegraph.graph.export.onnx.adaptable_weights import AdaptableWeight, find_adaptable_weights
from guidegraph.graph.export.onnx.axes import Axis
from guidegraph.graph.export.onnx.quantise import quantise_weights
from guidegraph.graph.export.onnx.trace import TracedPart, trace_part
from guidegraph.graph.export.partition.free_axes import find_free_axes, separate_batches
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph.graph.export.partition.precision import EVERY_STEP, PRECISIONS
from guidegraph.graph.export.partition.subgraph import PartPlan
from guidegraph.graph.export.user_frame import user_frame_of_traceback
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph_runtime.error_text import list_causes


@dataclass(frozen=True)
class ExportedPart:
    """A part: its plan, its free axes, its graph, and the graph's precision.

    adaptable: the weights that a LoRA may change at run time.
    """

    plan: PartPlan
    axes: tuple[dict[int, Axis], ...]
    traced: TracedPart
    precision: str = "fp32"
    adaptable: tuple[AdaptableWeight, ...] = ()


OnPart: TypeAlias = Callable[[ExportedPart, float], None]


def multiples(part: ExportedPart) -> dict[str, int]:
    """The factors above 1 that the sizes of a part's named axes must be multiples of."""
    return {axis.name: axis.multiple_of for axes in part.axes for axis in axes.values() if axis.multiple_of > 1}


def trace_parts(
    plans: Sequence[PartPlan],
    device: str,
    precision: Mapping[str, str],
    on_part: OnPart | None,
    midway: Collection[str] = (),
    dtype: str = "float32",
) -> tuple[ExportedPart, ...]:
    """Trace parts. midway: nodes that are traced only because all parts form one graph; their parts are traced first.

    dtype: of the run in which they are traced, as nodes read it.

    Raises ``NoSuchPart`` for a precision of an unknown part, and ``ExportError`` for one that cannot be traced.
    """
    names = [plan.name for plan in plans]
    if unknown := [name for name in precision if name != EVERY_STEP and name not in names]:
        raise NoSuchPart(f"there is no part '{unknown[0]}'", suggest(unknown[0], names, "parts"))
    if EVERY_STEP in precision and not any(plan.in_loop for plan in plans):
        precision_name = precision[EVERY_STEP]
        raise NoSuchPart(
            f"{precision_name} is for parts in loops, and there is none", f"name a part: PART={precision_name}"
        )
    parts = {}
    for plan in sorted(plans, key=lambda plan: not set(plan.keys) & set(midway)):
        started = time.perf_counter()
        default = precision.get(plan.form_of or EVERY_STEP, "fp32") if plan.in_loop else "fp32"
        try:
            with use_device(device, dtype), pause_collector():
                parts[plan.name] = _trace_with_fallback(plan, precision.get(plan.name, default))
        except ExportError as error:
            if keys_between := [key for key in plan.keys if key in midway]:
                # These nodes would run on the host in a bundle.
                names_between = ", ".join(f"nodes.{key}" for key in keys_between)
                reason = f"one graph has to hold {names_between} too, which is the host's work in a bundle: "
                remedy = "leave out what it gives (--only), or export a bundle: leave out --single-file"
                raise ExportError(reason + error.reason, remedy, place=error.place, operator=error.operator) from error
            raise
        if on_part is not None:
            on_part(parts[plan.name], time.perf_counter() - started)
    return tuple(parts[plan.name] for plan in plans)


def _trace_with_fallback(part: PartPlan, precision: str) -> ExportedPart:
    """Trace a part with separate batch axes of inputs if possible, else with one batch axis for all.

    An error names the node that failed while it was traced, or else the part's nodes.
    """
    with_own_batches = part if part.in_loop else separate_batches(part)
    try:
        try:
            return _trace_free_sizes(with_own_batches, precision)
        except ExportError:
            if not any("A" in part_input.axes for part_input in with_own_batches.inputs):
                raise
            return _trace_free_sizes(part, precision)
    except ExportError as error:
        cause = next((link for link in list_causes(error) if isinstance(link, NodeError)), None)
        if cause is None:
            subject, place = f"part '{part.name}' (nodes.{', nodes.'.join(part.keys)})", error.place
        else:
            subject = f"{cause.path} ({cause.node_id})"
            place = error.place or user_frame_of_traceback(cause.cause.__traceback__)
        reason = f"{subject}: {error.reason}"
        raise ExportError(reason, error.remedy, place=place, operator=error.operator) from error


def _trace_free_sizes(part: PartPlan, precision: str) -> ExportedPart:
    """Trace a part with as many free axes as possible. Axes other than batches are fixed if the trace requires it."""
    part, axes = find_free_axes(part)
    while True:
        try:
            traced = _trace_graph(part, axes, precision)
            adaptable = find_adaptable_weights(traced, part.models, getattr(torch, PRECISIONS[precision]))
            return ExportedPart(part, tuple(axes), traced, precision, adaptable)
        except FixedSizeError as error:
            names = {axis.name for input_axes in axes for axis in input_axes.values()}
            named_axes = {name for name in names if re.search(rf"\b{name}\b", error.condition)}
            fixed = {name for name in named_axes if name != DYNAMIC["B"]}
            if not fixed or any(name.startswith(DYNAMIC["A"]) for name in fixed):
                raise
            axes = [
                {position: axis for position, axis in input_axes.items() if axis.name not in fixed}
                for input_axes in axes
            ]


def _trace_graph(part: PartPlan, axes: list[dict[int, Axis]], precision: str) -> TracedPart:
    examples, names = [each.example for each in part.inputs], [each.name for each in part.inputs]
    dtype = getattr(torch, PRECISIONS[precision])
    function = part.function
    if dtype != torch.float32:
        assert part.cast is not None
        function = part.cast(dtype)
    traced = trace_part(function, examples, names, axes, list(part.outputs))
    return quantise_weights(traced) if precision == "int8" else traced

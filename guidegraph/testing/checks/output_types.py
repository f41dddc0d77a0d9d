"""The outputs of a node have the types that its signature declares, and the right shapes at several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.literals import convert_literal
from guidegraph.graph.types import is_tensor, takes_literal
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.types import Condition, Prediction, SchedulerState, Score
from guidegraph.testing.argument_variations import call_or_none, vary_arguments
from guidegraph.testing.arguments import Arguments, call_node, make_arguments, output_leaves
from guidegraph.testing.batches import WIDER, batch_size, declares_axes, widen
from guidegraph.testing.case import NodeCase
from guidegraph.testing.checks.sequences import check_sequences
from guidegraph.testing.outcome import Inapplicable, Nonconforming
from guidegraph.testing.type_match import why_lacking, why_mismatched


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

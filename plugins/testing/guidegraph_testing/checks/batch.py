"""Sample i alone equals sample i in a batch, with a shared or separate t, scale, and row of the sampler's table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from guidegraph.graph.export.partition.free_axes import silence_logger
from guidegraph.graph.export.partition.sample_flow import find_mixing
from guidegraph.graph.export.partition.sample_rules import SAMPLES
from guidegraph.graph.types import is_tensor
from guidegraph.nodes.guidance.step_context import StepContext, UnlikeRows
from guidegraph.nodes.types import SchedulerState, Timesteps
from guidegraph_testing.arguments import (
    Arguments,
    batch_size,
    call_node,
    make_arguments,
    name_outputs,
    narrow_to_sample,
    output_leaves,
    require_traceable,
    take_sample,
    takes_one_or_per_sample,
)
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming
from guidegraph_testing.comparison import difference, rounding_tolerance


def check_batch_invariance(case: NodeCase) -> None:
    """Each sample is computed only from its own inputs."""
    args = make_arguments(case)
    batch = batch_size(case, args)
    if batch is None:
        raise Inapplicable("no input has a batch axis")
    if batch == 1:
        raise Inapplicable("its inputs have one sample: give two or more")
    compared = [
        _compare_samples(case, variant, batch, description) for description, variant in _variants(case, args, batch)
    ]
    if (unlike := _with_unlike_rows(args, batch)) is not None:
        compared.append(_compare_unlike_rows(case, unlike, batch))
    if not any(compared):
        raise Inapplicable("no output has a batch axis")
    _follow_samples(case, args, batch)


def _follow_samples(case: NodeCase, args: Arguments, batch: int) -> None:
    """Raise ``Nonconforming`` if an operator of the node makes a sample depend on others, whatever their values.

    A node that cannot run without values, or that gives a model, is only tried with values.
    """
    spec, leaves = case.spec, [leaf for _, leaf in args.leaves(case)]
    axes = [leaf.axes.index("B") if "B" in leaf.axes else None for leaf in leaves]
    input_axes = [
        axis if axis is not None and leaf.tensor.shape[axis] == batch else None
        for axis, leaf in zip(axes, leaves, strict=True)
    ]
    names: list[str] = []
    output_axes: list[int] = []

    def call(*tensors: Any) -> list[Any]:
        remaining = iter(tensors)
        changed = args.map_tensors(case, lambda port, leaf: next(remaining))
        outputs = output_leaves(case, name_outputs(case, spec.function(**changed.ports, **changed.settings)))
        results = [(path, leaf) for path, leaf in outputs if "B" in leaf.axes]
        results = [(path, leaf) for path, leaf in results if leaf.tensor.shape[leaf.axes.index("B")] == SAMPLES]
        names[:] = [path for path, _ in results]
        output_axes[:] = [leaf.axes.index("B") for _, leaf in results]
        return [leaf.tensor for _, leaf in results]

    try:
        require_traceable(case)
        with silence_logger("torch._subclasses.fake_tensor"):
            mixing = find_mixing(call, [leaf.tensor for leaf in leaves], input_axes, output_axes)
    except Exception:  # a node that reads values, or takes so many samples alone, is only tried with values
        return
    if mixing is not None and mixing.has_rule:
        raise case.error(
            "each sample to be computed from its own inputs",
            f"a sample of output '{names[mixing.output]}' depends on the other samples of the batch{mixing.describe()}",
            "compute maxima, norms, means and orders over the axes of a sample, dim=(1, 2, 3)",
        )


def _variants(case: NodeCase, args: Arguments, batch: int) -> Iterator[tuple[str, Arguments]]:
    yield "", args
    times = [name for name, port in case.spec.inputs.items() if Timesteps in port.type.alternatives]
    if any(is_tensor(args.ports.get(name)) and len(args.ports[name]) > 1 for name in times):
        shared = {name: args.ports[name][:1] for name in times if is_tensor(args.ports.get(name))}
        yield " with one t for all", Arguments({**args.ports, **shared}, args.settings)
    scales = {
        name: torch.tensor([float(args.settings[name]) + 0.25 * i for i in range(batch)])
        for name, port in case.spec.settings.items()
        if takes_one_or_per_sample(port.type) and isinstance(args.settings[name], (int, float))
    }
    if scales:
        description = f" with a tensor ({batch}) as {', '.join(scales)}"
        yield description, Arguments(args.ports, {**args.settings, **scales})


def _with_unlike_rows(args: Arguments, batch: int) -> Arguments | None:
    """The arguments with another row of the sampler's table for each sample; None if they have no row.

    A step context gets another step, of a sampler of another length, and another noise level for each.
    """
    ports = dict(args.ports)
    for name, value in args.ports.items():
        if isinstance(value, SchedulerState):
            ports[name] = replace(value, index=torch.arange(batch) % 2)
        elif isinstance(value, StepContext):
            share = torch.arange(batch) / (2 * batch)
            ratio = value.sigma / value.alpha * (1 + share.to(value.sigma))
            alpha = 1 / (1 + ratio) if value.form == "flow" else (1 + ratio.square()).rsqrt()
            order = torch.arange(batch, device=value.step.device)
            ports[name] = replace(value, alpha=alpha, sigma=ratio * alpha, step=order, steps=batch + order)
    changed = any(value is not args.ports[name] for name, value in ports.items())
    return Arguments(ports, args.settings) if changed else None


def _compare_unlike_rows(case: NodeCase, args: Arguments, batch: int) -> bool:
    """As ``_compare_samples``; a node that takes one row for all samples may refuse the others with ``UnlikeRows``."""
    with suppress(UnlikeRows):
        try:
            return _compare_samples(case, args, batch, " with a row for each")
        except Nonconforming as error:
            if isinstance(error.__cause__, UnlikeRows):
                raise error.__cause__ from None
            raise
    return True


def _compare_samples(case: NodeCase, args: Arguments, batch: int, description: str) -> bool:
    """Whether an output has a batch axis. Raises ``Nonconforming`` if a sample differs from the same sample alone."""
    together = call_node(case, args)
    leaves = [
        (path, leaf)
        for path, leaf in output_leaves(case, together)
        if "B" in leaf.axes and leaf.tensor.shape[leaf.axes.index("B")] == batch
    ]
    for index in range(batch) if leaves else ():
        outputs = call_node(case, take_sample(case, args, batch, index))
        alone: dict[str, Any] = {path: leaf.tensor for path, leaf in output_leaves(case, outputs)}
        for path, leaf in leaves:
            expected = narrow_to_sample(leaf.tensor, leaf, batch, index)
            number = outputs.get(path)  # guidance.interval, say, gives one for one t
            sample = torch.tensor([number]) if isinstance(number, (int, float)) else alone.get(path)
            error = difference(sample, expected)
            if error > rounding_tolerance(expected):
                raise case.error(
                    f"sample {index} alone to be sample {index} in a batch of {batch}{description}",
                    f"output '{path}' differs by {error:.1e} of its largest value",
                    "compute norms, means and deviations over the axes of a sample, dim=(1, 2, 3), and give a scale "
                    "(B) trailing axes with per_sample(scale, x), and a level or step of the context with "
                    "context.along(…); a method that needs one row for all calls context.require_one_row()",
                )
    return bool(leaves)

"""Sample i alone equals sample i in a batch, with a shared or separate t, scale, and row of the sampler's table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from guidegraph.graph.types import is_tensor
from guidegraph.nodes.guidance.step_context import StepContext, UnlikeRows
from guidegraph.nodes.types import SchedulerState, Timesteps
from guidegraph.testing.arguments import Arguments, call_node, make_arguments, output_leaves, takes_one_or_per_sample
from guidegraph.testing.batches import batch_size, narrow_to_sample, take_sample
from guidegraph.testing.case import NodeCase
from guidegraph.testing.comparison import difference, rounding_tolerance
from guidegraph.testing.outcome import Inapplicable, Nonconforming


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
    """The arguments with another row of the sampler's table for each sample; None if they have no row."""
    ports = dict(args.ports)
    for name, value in args.ports.items():
        if isinstance(value, SchedulerState):
            ports[name] = replace(value, index=torch.arange(batch) % 2)
        elif isinstance(value, StepContext):
            ports[name] = _with_unlike_levels(value, batch)
    changed = any(value is not args.ports[name] for name, value in ports.items())
    return Arguments(ports, args.settings) if changed else None


def _with_unlike_levels(context: StepContext, batch: int) -> StepContext:
    """The context with another step, of a sampler of another length, and another noise level for each sample."""
    share = torch.arange(batch) / (2 * batch)
    ratio = context.sigma / context.alpha * (1 + share.to(context.sigma))
    alpha = 1 / (1 + ratio) if context.form == "flow" else (1 + ratio.square()).rsqrt()
    order = torch.arange(batch, device=context.step.device)
    return replace(context, alpha=alpha, sigma=ratio * alpha, step=order, steps=batch + order)


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

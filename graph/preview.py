"""Previews: a training loop's look at what it has trained so far, that leaves the training as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidegraph.graph import events
from guidegraph.graph.call import Body
from guidegraph.graph.generators import generators_kept
from guidegraph.graph.ir import Carry, Index, Loop, Preview, Source
from guidegraph.graph.loop import run_phases
from guidegraph.graph.models import frozen_copy
from guidegraph.graph.ownership import own
from guidegraph.graph.plan import Plan, first_phase
from guidegraph.graph.types import PortType

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Previewed:
    """One output of a preview: of which loop (its key), after how many steps, its name, value and type."""

    loop: str
    step: int
    name: str
    value: Any
    type: PortType


def is_due(every: int, done: int, total: int) -> bool:
    """Whether a preview is run after ``done`` of ``total`` steps: every so many, and at the end; never where 0."""
    return every > 0 and (done % every == 0 or done == total)


def run_preview(
    loop: Loop,
    preview: Preview,
    done: int,
    carry: Mapping[str, Any],
    outside: Mapping[Source, Any],
    context: Body,
    plan: Plan,
    device: torch.device,
) -> None:
    """Run a preview with the carries as they are after ``done`` steps, and hand its outputs on.

    Models are seen through frozen copies that share their tensors; torch's generators are put back. Raises
    ``NodeError`` and ``Cancelled``.
    """
    import torch

    values: dict[Source, Any] = {**outside, Index(loop.key): done - 1}
    values |= {Carry(loop.key, name): frozen_copy(value) for name, value in carry.items()}
    phase = first_phase(preview.ops, [output.source for output in preview.outputs.values()], plan.passes)
    with generators_kept(device), torch.no_grad(), context.trips.apart():
        results = run_phases(phase, values, context, plan)
    for name, output in preview.outputs.items():
        if context.on_preview is not None:
            context.on_preview(Previewed(loop.key, done, name, own(results[output.source]), output.type))
        for observer in context.observers:
            observer(events.PreviewReady(f"nodes.{loop.key}", name, done))

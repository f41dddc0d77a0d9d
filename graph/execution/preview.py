"""Previews: outputs computed during a training from its current models, without effect on the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guidegraph.graph import events
from guidegraph.graph.execution.loop import run_phases
from guidegraph.graph.execution.loop_context import LoopContext, Previewed
from guidegraph.graph.frozen_models import copy_frozen
from guidegraph.graph.ir import Loop
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import first_phase
from guidegraph.graph.sources import Carry, Index, Source
from guidegraph.graph.training.fit import Preview
from guidegraph.graph.values.ownership import copy_value
from guidegraph.graph.values.torch_generators import preserve_generators

if TYPE_CHECKING:
    import torch


def is_due(every: int, done: int, total: int) -> bool:
    """Whether a preview runs after ``done`` of ``total`` steps: every ``every`` steps and at the end; never if 0."""
    return every > 0 and (done % every == 0 or done == total)


def run_preview(
    loop: Loop,
    preview: Preview,
    done: int,
    carry: Mapping[str, Any],
    outside: Mapping[Source, Any],
    context: LoopContext,
    plan: Plan,
    device: torch.device,
) -> None:
    """Run a preview with the carries after ``done`` steps, and pass on its outputs.

    Models are passed as frozen copies that share their tensors; torch's generators are restored. Raises ``NodeError``
    and ``Cancelled``.
    """
    import torch

    values: dict[Source, Any] = {**outside, Index(loop.key): done - 1}
    values |= {Carry(loop.key, name): copy_frozen(value) for name, value in carry.items()}
    phase = first_phase(*preview.block, plan.config.passes)
    with preserve_generators(device), torch.no_grad(), context.trips.count_separately():
        results = run_phases(phase, values, context, plan)
    for name, output in preview.outputs.items():
        if context.on_preview is not None:
            context.on_preview(Previewed(loop.key, done, name, copy_value(results[output.source]), output.type))
        for observer in context.observers:
            observer(events.PreviewReady(f"nodes.{loop.key}", name, done))

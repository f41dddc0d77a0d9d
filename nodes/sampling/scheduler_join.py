"""Samplers of different kinds and lengths as one table, in which each sample of a batch has its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes.types import Scheduler, SchedulerState, Timesteps
from guidegraph_runtime.tables.rows import K

if TYPE_CHECKING:
    from torch import Tensor

CLIPPING = ("clip", "threshold", "threshold_max", "rederive_eps")
NEEDS = ("learned", "reads_eps", "reads_noise", "zero_snr")
"""Flags that are true of a joined table if they are true of one sampler in it."""
ABILITIES = ("renoisable", "reads_score")
"""Flags that are true of a joined table only if they are true of every sampler. They decide which ports of the step
may be wired."""


class JoinedSampler(NamedTuple):
    """A table of several samplers, with a timestep for each sample in each iteration, (B), and the state before."""

    scheduler: Scheduler
    steps: Sequence[Timesteps]
    state: SchedulerState


@node("scheduler.join", host=True)
def join(schedulers: Sequence[Scheduler]) -> JoinedSampler:
    """One sampler for a batch of B samples that each have their own: sample i takes the rows of number i.

    The samplers may differ in solver, steps, levels, start and clipping; their schedules have one form. The loop runs
    for the longest of them. A sample whose sampler has ended waits: it keeps x, and the network is still called with
    it, at its last level.
    The step takes a score or `renoise` only if each of the samplers does.
    steps: R tensors (B), the timestep of each sample in each iteration. state: its index is (B), a row for each sample.
    Raises an error for an empty list, for a table that is already joined, and for schedules of two forms.
    """
    if not schedulers:
        raise ValueError("there are no samplers to join: list one for each sample of the batch")
    if forms := {table.form for table in schedulers[1:]} - {schedulers[0].form}:
        raise ValueError(
            f"samplers of schedules of form {schedulers[0].form} and {forms.pop()} take different samples: join those "
            "of one schedule"
        )
    if any(table.joined for table in schedulers):
        raise ValueError("a sampler in the list is already of several: list each of them once, for its sample")
    length = max(len(table.t) for table in schedulers)
    padded = [pad_rows(table, length) for table in schedulers]
    joined = replace(concatenate_rows(padded), joined=len(padded) > 1)
    index = length * torch.arange(len(padded), device=joined.t.device)
    steps = joined.t.to(torch.float32).reshape(len(padded), length).T.contiguous().unbind()
    return JoinedSampler(joined, steps, SchedulerState(index, joined.t.new_zeros(K, dtype=torch.float32)))


def pad_rows(scheduler: Scheduler, length: int) -> Scheduler:
    """The sampler with `length` rows. The added ones keep x and the slots, at the level of the last row."""
    missing = length - len(scheduler.t)
    keep = torch.eye(*scheduler.matrix.shape[1:], dtype=scheduler.matrix.dtype, device=scheduler.matrix.device)
    keep[1:] = keep[1:].roll(3, 1)  # the slots follow x, x̂0, ε and the noise among a row's inputs
    row = torch.arange(len(scheduler.t), device=scheduler.t.device)

    def repeat_last(column: Tensor) -> Tensor:
        return torch.cat([column, column[-1:].expand(missing, *column.shape[1:])])

    return replace(
        scheduler,
        matrix=torch.cat([scheduler.matrix, keep.expand(missing, -1, -1)]),
        alpha=repeat_last(scheduler.alpha),
        sigma=repeat_last(scheduler.sigma),
        t=repeat_last(scheduler.t),
        score_gain=torch.cat([scheduler.score_gain, scheduler.score_gain.new_zeros(missing)]),
        log_variance=repeat_last(scheduler.log_variance),
        position=repeat_last(row),
        length=torch.full((length,), len(row), device=row.device),
    )


def concatenate_rows(schedulers: Sequence[Scheduler]) -> Scheduler:
    """The rows of several tables, one after the other; settings of clipping that differ become columns (R)."""
    names = ("matrix", "alpha", "sigma", "t", "score_gain", "position", "length")
    fields: dict[str, Any] = {name: torch.cat([getattr(table, name) for table in schedulers]) for name in names}
    fields |= {name: any(getattr(table, name) for table in schedulers) for name in NEEDS}
    fields |= {name: all(getattr(table, name) for table in schedulers) for name in ABILITIES}
    learned = any(table.learned for table in schedulers)
    # A row without a learned variance has the deviation exp(0) = 1, whatever is predicted.
    bounds = [t.log_variance if t.learned or not learned else torch.zeros_like(t.log_variance) for t in schedulers]
    return replace(schedulers[0], **fields, log_variance=torch.cat(bounds), **_join_clipping(schedulers))


def _join_clipping(schedulers: Sequence[Scheduler]) -> dict[str, Any]:
    """The settings of clipping as columns; empty if all samplers have the same."""
    first, *following = ([getattr(table, name) for name in CLIPPING] for table in schedulers)
    if all(settings == first for settings in following):
        return {}
    lengths = [len(table.t) for table in schedulers]
    columns: dict[str, Tensor] = {}
    for name in CLIPPING:
        values = [getattr(table, name) for table in schedulers]
        dtype = torch.bool if name == "rederive_eps" else torch.float64
        filled = [
            torch.full((length,), torch.nan if value is None else value, dtype=dtype)
            for value, length in zip(values, lengths, strict=True)
        ]
        columns[name] = torch.cat(filled).to(schedulers[0].t.device)
    return columns

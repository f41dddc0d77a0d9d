"""The outputs of a sampler's node: its table, the times of its rows, and its initial state."""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

import numpy as np

from guidegraph.graph.device_context import current_device
from guidegraph.nodes.sampling.levels import to_runtime_levels, to_runtime_noise
from guidegraph.nodes.types import Levels, Schedule, Scheduler, SchedulerState, Timesteps
from guidegraph_runtime.tables.rows import K
from guidegraph_runtime.tables.sampler_table import SHORTHAND, SamplerTable, check_shorthand


class Sampler(NamedTuple):
    scheduler: Scheduler
    steps: Timesteps
    state: SchedulerState


def settings_beside_levels(wired: Collection[str]) -> dict[str, str]:
    """Problems, by name, of settings that choose levels although levels are wired."""
    message = "the levels are wired, so it would change nothing: leave it out, or set it at the levels' node"
    return {name: message for name in SHORTHAND if name in wired} if "levels" in wired else {}


def make_sampler_check(table_of: Callable[..., SamplerTable]) -> Callable[..., dict[str, str]]:
    """A check of a sampler's settings, which returns problems by name.

    It refuses settings that choose levels although levels are wired. Once the schedule is known, it computes the table.
    """
    settings = [*signature(table_of).parameters][1:]  # the first parameter is the schedule

    def check(wired: Collection[str], **arguments: Any) -> dict[str, str]:
        problems = settings_beside_levels(wired)
        if problems or len(arguments) <= len(settings):  # some values are not known yet
            return problems
        noise, levels = to_runtime_noise(arguments.pop("schedule")), arguments.pop("levels")
        try:
            table_of(noise, None if levels is None else to_runtime_levels(levels), **arguments)
        except ValueError as error:
            return {"steps" if levels is None and "steps" in arguments else "schedule": str(error)}
        return {}

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in ("schedule", *settings)]
    wired = Parameter("wired", Parameter.POSITIONAL_OR_KEYWORD)
    check.__signature__ = Signature([wired, *parameters])  # type: ignore[attr-defined]
    return check


def build_sampler(
    table_of: Callable[..., SamplerTable], schedule: Schedule, levels: Levels | None, **settings: Any
) -> Sampler:
    """Build a sampler node's outputs from the table that the runtime's function of the same name computes."""
    import torch

    device = current_device()
    visited = None if levels is None else to_runtime_levels(levels)
    check_shorthand(table_of, visited, settings)
    fields = table_of(to_runtime_noise(schedule), visited, **settings)._asdict()
    columns = {name: torch.from_numpy(v).to(device) for name, v in fields.items() if isinstance(v, np.ndarray)}
    scheduler = Scheduler(**fields | columns)
    state = SchedulerState(torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(K, device=device))
    return Sampler(scheduler, scheduler.t.float(), state)

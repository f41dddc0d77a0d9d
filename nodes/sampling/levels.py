"""The noise levels that a sampler visits, as a value, so that any grid works with any solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guidegraph.graph.node import node
from guidegraph.nodes.derive import define_nodes, to_engine, to_runtime
from guidegraph.nodes.types import Levels, Schedule, Table
from guidegraph_runtime.declare import settings
from guidegraph_runtime.operations import levels as host
from guidegraph_runtime.operations.levels import Listed
from guidegraph_runtime.tables import noise_levels

__doc__ = host.__doc__

FLOW_ENDS = ("karras", "exponential", "polyexponential", "kl_optimal", "linspace", "sgm_uniform", "beta")
"""Nodes of version 2. The last σ of a shifted flow is the shifted 1/T, and a stated range of few, steep levels is kept;
`beta` rounds the timesteps of a flow, before its shift."""

define_nodes(globals(), "levels", versions=dict.fromkeys(FLOW_ENDS, 2))


if TYPE_CHECKING:  # the nodes that were defined above

    def __getattr__(name: str) -> Callable[..., Levels]: ...


@node("levels.table")
def levels_table(levels: Levels) -> Table:
    """Levels as a table to read or plot: t, α, σ and σ/α of each. The last row is where the last step ends."""
    visited = to_runtime_levels(levels).to_list()
    columns = {
        "t": [level.t for level in visited],
        "alpha": [level.alpha for level in visited],
        "sigma": [level.sigma for level in visited],
        "sigma/alpha": [level.ratio for level in visited],
    }
    return Table({"level": list(range(len(visited))), **columns})


def levels_at_timesteps(schedule: Schedule, timesteps: Sequence[float], final: Listed = "one") -> Levels:
    """Levels at timesteps from 0 to T − 1, falling or rising; `final` is where the last step ends.

    Raises ``ValueError`` for timesteps beyond the schedule or not in order.
    """
    fields = host.from_timesteps(to_runtime(schedule), timesteps=list(timesteps), final=final)
    levels: Levels = to_engine(fields, settings.Levels)
    return levels


def levels_at_sigmas(schedule: Schedule, sigmas: Sequence[float], final: Listed = "one") -> Levels:
    """Levels with exactly these σ/α, or σ of a flow, falling or rising. The last step ends at a final 0, or at `final`.

    Raises ``ValueError`` for numbers below 0 or not in order.
    """
    fields = host.from_sigmas(to_runtime(schedule), sigmas=list(sigmas), final=final)
    levels: Levels = to_engine(fields, settings.Levels)
    return levels


def to_runtime_levels(levels: Levels) -> noise_levels.Levels:
    """Convert levels to the runtime's. Raises ``ValueError`` for levels that neither fall nor rise."""
    return noise_levels.parse_levels(to_runtime(levels))

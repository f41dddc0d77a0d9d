"""The levels of timesteps that samplers visit again and again: computed once for a schedule.

A conversion between predictions reads α and σ at the timestep of its step. They are about thirty small tensor
operations, which take longer than the conversion of a small sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from guidegraph.graph.types import Tensor
from guidegraph.graph.values.ownership import change_count
from guidegraph.nodes.shape_checks import has_values, is_transformed

MOST_TIMESTEPS = 4096
Level: TypeAlias = "tuple[Tensor, Tensor]"
"""α and σ."""


class LevelTable(Protocol):
    """A schedule: whatever has ᾱ for each of its timesteps."""

    @property
    def alphas_bar(self) -> Tensor: ...


class _KeptLevel(NamedTuple):
    """α and σ, and how often these two and the schedule's table had been changed in place when they were made."""

    level: Level
    changes: tuple[int, int, int]


_kept: WeakKeyDictionary[LevelTable, dict[tuple[object, ...], _KeptLevel]] = WeakKeyDictionary()


def keep_level(schedule: LevelTable, x: Tensor, t: Tensor, compute: Callable[[Tensor, Tensor], Level]) -> Level:
    """α and σ of `compute(x, t)`, made once for equal timesteps and any x of one dtype, device and rank.

    Levels are computed again unless t is one concrete timestep on the CPU, and where gradients of it are taken or calls
    are recorded.
    """
    import torch

    table = schedule.alphas_bar
    if t.shape != (1,) or t.device.type != "cpu" or t.requires_grad or table.requires_grad:
        return compute(x, t)
    if not has_values(t, x, table) or is_transformed():
        return compute(x, t)
    levels = _kept.get(schedule)
    if levels is None:
        levels = _kept[schedule] = {}
    key = (float(t), x.dtype, x.device, x.ndim)
    kept = levels.get(key)
    if kept is None or kept.changes != _count_changes(kept.level, table):
        if len(levels) >= MOST_TIMESTEPS:
            levels.clear()
        with torch.inference_mode(False), torch.no_grad():  # later steps may take gradients
            level = compute(x, t)
        kept = levels[key] = _KeptLevel(level, _count_changes(level, table))
    return kept.level


def _count_changes(level: Level, table: Tensor) -> tuple[int, int, int]:
    return change_count(level[0]), change_count(level[1]), change_count(table)

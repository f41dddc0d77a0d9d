"""Random and constant timesteps of training steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.types import Sample, Schedule, Timesteps
from guidegraph.nodes.uniforms import TIMES, uniforms
from guidegraph_runtime.tables.noise_levels import unshift_time

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@node("timesteps.uniform")
def uniform_timesteps(
    like: Sample, schedule: Schedule, index: int = 0, *, seed: Annotated[int, Ge(0)] = 0
) -> Timesteps:
    """A timestep (B) for each sample of `like`, uniform over the schedule, one from each of B equal strata.

    If the schedule has a trained range of timesteps, they are uniform over that range. They are whole numbers, except
    on a flow, where they are real, moved by its shift within the range.

    The strata are in random order, so that the noise level does not depend on the position in the batch. The result
    depends on (seed, index) and B alone; `index` is the loop's.
    """
    positions = draw_positions(like, index, seed)
    if schedule.form == "flow":
        return to_timesteps(positions, like, schedule)
    first = 0 if schedule.trained_from is None else math.ceil(schedule.trained_from)
    last = schedule.train_steps - 1 if schedule.trained_to is None else math.floor(schedule.trained_to)
    t = torch.from_numpy(first + np.floor(positions * (last - first + 1))).to(device=like.device, dtype=torch.float32)
    return t.clamp(max=last)


@node("timesteps.logit_normal")
def logit_normal_timesteps(
    like: Sample,
    schedule: Schedule,
    index: int = 0,
    *,
    mean: float = 0.0,
    std: Annotated[float, Gt(0)] = 1.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> Timesteps:
    """Timesteps (B), real numbers, whose place u in the trained range has a normal logit (Esser et al. 2024, 3.1).

    The density of u, which is σ on a flow without a shift, is π(u) = exp(−(logit u − m)²/(2s²)) / (s √(2π) u (1 − u)).
    mean, std: m and s; a mean above 0 draws more noise. Strata, seed, index and shift as for `timesteps.uniform`.
    """
    positions = torch.from_numpy(draw_positions(like, index, seed))
    logits = mean + std * torch.special.ndtri(positions)
    return to_timesteps(np.asarray(torch.sigmoid(logits)), like, schedule)


@node("timesteps.mode")
def mode_timesteps(
    like: Sample,
    schedule: Schedule,
    index: int = 0,
    *,
    scale: Annotated[float, Ge(-1), Le(2 / (math.pi - 2))] = 1.29,
    seed: Annotated[int, Ge(0)] = 0,
) -> Timesteps:
    """Timesteps (B), real numbers, dense in the middle of the trained range, with heavy tails (Esser et al. 2024, 3.1).

    The place in the range is 1 − u − s(cos²(πu/2) − 1 + u) for a uniform u. scale: s, from −1, dense at the ends, to
    2/(π − 2), where the density in the middle is infinite; 0 is uniform, and 1.29 was among the paper's best.
    Strata, seed, index and shift as for `timesteps.uniform`.
    """
    u = draw_positions(like, index, seed)
    return to_timesteps(1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u), like, schedule)


@node("timesteps.cosmap")
def cosmap_timesteps(like: Sample, schedule: Schedule, index: int = 0, *, seed: Annotated[int, Ge(0)] = 0) -> Timesteps:
    """Timesteps (B), real numbers, with the signal-to-noise ratios of a cosine schedule (Esser et al. 2024, 3.1).

    The place in the trained range is 1 − 1/(tan(πu/2) + 1) for a uniform u, and its density 2/(π(1 − 2t + 2t²)). On a
    flow it is the σ where σ/α = tan(πu/2). Strata, seed, index and shift as for `timesteps.uniform`.
    """
    u = draw_positions(like, index, seed)
    return to_timesteps(1 - 1 / (np.tan(np.pi / 2 * u) + 1), like, schedule)


def draw_positions(like: Sample, index: int, seed: int) -> NDArray[np.float64]:
    """Uniform numbers (B) in (0, 1), one from each of B equal strata in random order."""

    def strata(batch: int) -> NDArray[np.float64]:
        order, within = uniforms(seed, index, 2 * batch, TIMES).reshape(2, batch)
        return (order.argsort(kind="stable") + within) / batch

    return local_rows(like.shape[0], strata)


def to_timesteps(positions: NDArray[np.float64], like: Sample, schedule: Schedule) -> Timesteps:
    """The timesteps (B), float32, at positions from 0 to 1 of the trained range, moved within it by a flow's shift."""
    ends = (
        schedule.first if schedule.trained_from is None else schedule.trained_from,
        schedule.last if schedule.trained_to is None else schedule.trained_to,
    )
    first, last = (unshift_time(t, schedule.first, schedule.last, schedule.shift) for t in ends)
    t = first + positions * (last - first)
    sigma = t / schedule.last
    moved = schedule.last * schedule.shift * sigma / (1 + (schedule.shift - 1) * sigma)
    return torch.from_numpy(moved).to(device=like.device, dtype=torch.float32)


@node("timesteps.constant")
def constant_timesteps(like: Sample, *, t: Annotated[float, Ge(0)] = 0.0) -> Timesteps:
    """The same timestep t (B) for each sample of `like`."""
    return torch.full((like.shape[0],), t, dtype=torch.float32, device=like.device)

"""Random and constant timesteps of training steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.data.scenes import TIMES, uniforms
from guidegraph.nodes.types import Sample, Schedule, Timesteps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@node("timesteps.uniform")
def uniform_timesteps(
    like: Sample, schedule: Schedule, index: int = 0, *, seed: Annotated[int, Ge(0)] = 0
) -> Timesteps:
    """A whole timestep (B) for each sample of `like`, uniform over the schedule, one from each of B equal strata.

    If the schedule has a trained range of timesteps, they are uniform over that range.

    The strata are in random order, so that a position in the batch has no fixed noise level. The result depends on
    (seed, index) and B alone; `index` is the loop's.
    """
    import numpy as np
    import torch

    def strata(batch: int) -> NDArray[np.float64]:
        order, within = uniforms(seed, index, 2 * batch, TIMES).reshape(2, batch)
        return (order.argsort(kind="stable") + within) / batch

    first = 0 if schedule.trained_from is None else math.ceil(schedule.trained_from)
    last = schedule.train_steps - 1 if schedule.trained_to is None else math.floor(schedule.trained_to)
    positions = local_rows(like.shape[0], strata)
    t = torch.from_numpy(first + np.floor(positions * (last - first + 1))).to(device=like.device, dtype=torch.float32)
    return t.clamp(max=last)


@node("timesteps.constant")
def constant_timesteps(like: Sample, *, t: Annotated[float, Ge(0)] = 0.0) -> Timesteps:
    """The same timestep t (B) for each sample of `like`."""
    import torch

    return torch.full((like.shape[0],), t, dtype=torch.float32, device=like.device)

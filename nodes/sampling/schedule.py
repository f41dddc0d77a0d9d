"""Noise schedules: how much of the picture remains at each timestep of the diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes.derive import define_nodes, node_for, to_engine, to_runtime
from guidegraph.nodes.shape_checks import check_compatible, expand_to_batch
from guidegraph.nodes.types import Prediction, PredictionKind, Sample, Schedule, Table, Timesteps
from guidegraph_runtime.declare import settings
from guidegraph_runtime.operations import schedule as host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__doc__ = host.__doc__

define_nodes(globals(), "schedule")


if TYPE_CHECKING:  # the nodes that were defined above

    def __getattr__(name: str) -> Callable[..., Schedule]: ...


@node_for("schedule.flow_shift")
def flow_shift(
    schedule: Schedule,
    like: Sample,
    *,
    patch: int,
    base_shift: float,
    max_shift: float,
    base_tokens: int,
    max_tokens: int,
) -> Schedule:
    import numpy as np

    fields = host.flow_shift(
        to_runtime(schedule),
        np.broadcast_to(np.zeros((), np.float32), tuple(like.shape)),  # the values of like are not read
        patch=patch,
        base_shift=base_shift,
        max_shift=max_shift,
        base_tokens=base_tokens,
        max_tokens=max_tokens,
    )
    shifted: Schedule = to_engine(fields, settings.Schedule)
    return shifted


@node("schedule.convert")
def convert(prediction: Prediction, x: Sample, t: Timesteps, schedule: Schedule, *, kind: PredictionKind) -> Prediction:
    """Convert a prediction at x_t to another kind: eps, x0, v or flow. x (B, C, H, W), t (1) or (B)."""
    return schedule.convert(prediction, kind, x, t)


@node("schedule.add_noise")
def add_noise(x0: Sample, noise: Sample, t: Timesteps, schedule: Schedule) -> Sample:
    """x_t = α_t x0 + σ_t noise; x0 and noise (B, C, H, W), t (1) or (B)."""
    check_compatible("x0 and noise", x0, noise)
    return schedule.add_noise(x0, noise, expand_to_batch(t, max(x0.shape[0], noise.shape[0]), "t"))


@node("schedule.table")
def schedule_table(schedule: Schedule) -> Table:
    """A noise schedule at every whole t: β, ᾱ, α, σ, σ/α and the log of the signal-to-noise ratio α²/σ².

    ᾱ is α²/(α² + σ²), and β belongs to variance-preserving steps with this ᾱ, for a flow schedule too.
    """
    alphas_bar = schedule.alphas_bar.double().cpu()
    previous = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    t = torch.arange(len(alphas_bar))
    alpha, sigma = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
    if schedule.form == "flow":
        alpha, sigma = schedule.alpha_sigma(t.double())
    curves = {
        "t": t,
        "beta": 1 - alphas_bar / previous,
        "alpha_bar": alphas_bar,
        "alpha": alpha,
        "sigma": sigma,
        "sigma/alpha": ((1 - alphas_bar) / alphas_bar).sqrt(),
        "log_snr": torch.log(alphas_bar) - torch.log1p(-alphas_bar),
    }
    return Table({name: values.tolist() for name, values in curves.items()})


def from_betas(betas: NDArray[np.float64]) -> Schedule:
    """The schedule with ᾱ_t = Π_{s ≤ t} (1 − β_s)."""
    schedule: Schedule = to_engine(host.from_betas(betas), settings.Schedule)
    return schedule

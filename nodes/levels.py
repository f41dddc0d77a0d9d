"""Noise levels that a sampler visits, as a value: any grid goes with any solver.

All settings that several of them share:
steps: how many. final: where the last step lands, at ᾱ = 1 (one) or at ᾱ_0 (first). sigma_max: the first σ/α.
sigma_min: the last one before the landing. Without them, the ends are those that the schedule's model knows, as for all
levels that are not given one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from annotated_types import Ge, MinLen

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.sampler_settings import Fraction, Offset, Positive, Steps
from guidegraph.nodes.types import Levels, Schedule, Table
from guidegraph_runtime.host import levels as host
from guidegraph_runtime.host.levels import Listed
from guidegraph_runtime.tables.grid import Final
from guidegraph_runtime.tables.spacings import Aligned

if TYPE_CHECKING:
    from guidegraph_runtime.tables import grid


NotNegative: TypeAlias = Annotated[float, Ge(0)]


class Halves(NamedTuple):
    before: Levels
    after: Levels


@node("levels.leading", runtime=True)
def leading(schedule: Schedule, *, steps: Steps = 30, offset: Offset = 0, final: Final = "one") -> Levels:
    """Every (T // steps)-th timestep from 0 on (Lin et al. 2023, table 2): what DDIM and PNDM visit by default.

    offset: added to each; Stable Diffusion has 1.
    """
    return _levels(host.leading, **locals())


@node("levels.trailing", runtime=True)
def trailing(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Every (T / steps)-th timestep from the last one down, rounded (Lin et al. 2023, table 2)."""
    return _levels(host.trailing, **locals())


@node("levels.linspace", runtime=True)
def linspace(
    schedule: Schedule, *, steps: Steps = 30, whole_times: bool = False, lands: bool = False, final: Final = "one"
) -> Levels:
    """Timesteps evenly from the last one to the first, both visited: ComfyUI's `normal`, what Euler visits by default.

    whole_times: they are rounded. lands: the first one is left to the landing, as DPM-Solver++ and UniPC do by default.
    """
    return _levels(host.linspace, **locals())


@node("levels.simple", runtime=True)
def simple(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Whole timesteps from the last one down, T / steps apart and rounded up: ComfyUI's `simple`."""
    return _levels(host.simple, **locals())


@node("levels.sgm_uniform", runtime=True)
def sgm_uniform(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Timesteps evenly from the last one toward the first, which is not visited: ComfyUI's `sgm_uniform`."""
    return _levels(host.sgm_uniform, **locals())


@node("levels.beta", runtime=True)
def beta(
    schedule: Schedule, *, steps: Steps = 30, a: Positive = 0.6, b: Positive = 0.6, final: Final = "one"
) -> Levels:
    """Whole timesteps at the quantiles of a Beta(a, b) distribution (Lee et al. 2024): dense at both ends.

    a, b: the shape; below 1 the ends are dense. Timesteps that round to the same one are visited once.
    """
    return _levels(host.beta, **locals())


@node("levels.karras", runtime=True)
def karras(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    rho: Positive = 7.0,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α even in the ρ-th root (Karras et al. 2022, eq. 5). rho: ρ, larger is denser near the data."""
    return _levels(host.karras, **locals())


@node("levels.exponential", runtime=True)
def exponential(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α even in the logarithm, that is even in λ = log(α/σ), as Lu et al. (2022) space them."""
    return _levels(host.exponential, **locals())


@node("levels.polyexponential", runtime=True)
def polyexponential(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    rho: Positive = 1.0,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α whose logarithm is a polynomial (k-diffusion's). rho: its degree; 1 is exponential."""
    return _levels(host.polyexponential, **locals())


@node("levels.kl_optimal", runtime=True)
def kl_optimal(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α = tan of even angles, the optimum for Gaussian data (Sabour et al. 2024)."""
    return _levels(host.kl_optimal, **locals())


@node("levels.ays", runtime=True)
def ays(schedule: Schedule, *, steps: Steps = 10, model: Aligned = "sd1", final: Final = "one") -> Levels:
    """Align Your Steps (Sabour et al. 2024): ten σ/α optimised for a released model, interpolated for other counts.

    model: which one, Stable Diffusion 1, XL or Video.
    """
    return _levels(host.ays, **locals())


@node("levels.timesteps", runtime=True)
def timesteps(
    schedule: Schedule, *, timesteps: Annotated[list[NotNegative], MinLen(1)], final: Listed = "one"
) -> Levels:
    """Timesteps of one's own, falling; rising ones go from the data to the noise.

    timesteps: from 0 to T − 1, fractions too. final: where the last step lands, ᾱ = 1, ᾱ_0, or the last of the
    timesteps (listed).
    """
    return levels_at_timesteps(schedule, timesteps, final)


@node("levels.sigmas", runtime=True)
def sigmas(schedule: Schedule, *, sigmas: Annotated[list[NotNegative], MinLen(1)], final: Listed = "one") -> Levels:
    """σ/α of one's own, falling, kept exactly; rising ones go from the data to the noise.

    sigmas: a 0 at the end is the landing; beyond the schedule, the network is told its nearest timestep. final: where
    the last step lands where there is no 0, ᾱ = 1, ᾱ_0, or the last of the sigmas (listed).
    """
    return levels_at_sigmas(schedule, sigmas, final)


@node("levels.split", runtime=True)
def split(levels: Levels, *, at: Annotated[int, Ge(1)]) -> Halves:
    """The levels of the first `at` steps and those of the others, for two samplers or two models in turn."""
    before, after = host.split(_fields(levels), at=at)
    return Halves(_as_levels(before), _as_levels(after))


@node("levels.start", runtime=True)
def start(levels: Levels, *, strength: Fraction = 1.0) -> Levels:
    """Only the last part of the steps, for a start from a picture. strength: which part, at least one step."""
    return _as_levels(host.start(_fields(levels), strength=strength))


@node("levels.reverse", runtime=True)
def reverse(levels: Levels, schedule: Schedule) -> Levels:
    """The levels from the data to the noise, for inversion with a deterministic sampler.

    They start at the first level that the schedule's model knows, since no network is called at σ = 0.
    """
    return _as_levels(host.reverse(_fields(levels), _schedule_fields(schedule)))


@node("levels.whole", runtime=True)
def whole(levels: Levels, schedule: Schedule) -> Levels:
    """The levels at the nearest whole timesteps, for networks that know no others; equal ones are visited once."""
    return _as_levels(host.whole_timesteps(_fields(levels), _schedule_fields(schedule)))


@node("levels.table")
def levels_table(levels: Levels) -> Table:
    """Levels to read or plot: t, α, σ and σ/α of each, the landing last."""
    visited = as_tables(levels).visited()
    columns = {
        "t": [level.t for level in visited],
        "alpha": [level.alpha for level in visited],
        "sigma": [level.sigma for level in visited],
        "sigma/alpha": [level.ratio for level in visited],
    }
    return Table({"level": list(range(len(visited))), **columns})


def levels_at_timesteps(schedule: Schedule, timesteps: Sequence[float], final: Listed = "one") -> Levels:
    """Levels at timesteps from 0 to T − 1, falling or rising; `final` is where the last step lands.

    Raises ``ValueError`` for timesteps beyond the schedule or in no order.
    """
    return _levels(host.listed_timesteps, schedule, timesteps=list(timesteps), final=final)


def levels_at_sigmas(schedule: Schedule, sigmas: Sequence[float], final: Listed = "one") -> Levels:
    """Levels with just these σ/α, falling or rising; a 0 at the end is the landing, `final` where there is none.

    Raises ``ValueError`` for σ/α below 0 or in no order.
    """
    return _levels(host.listed_sigmas, schedule, sigmas=list(sigmas), final=final)


def as_noise(schedule: Schedule) -> grid.Noise:
    """A schedule as the tables see it, in float64 NumPy."""
    from guidegraph_runtime.host.schedule import noise_of_fields

    return noise_of_fields(_schedule_fields(schedule))


def as_tables(levels: Levels) -> grid.Levels:
    """Levels as the tables see them. Raises ``ValueError`` for ones that neither fall nor rise."""
    return host.levels_of_fields(_fields(levels))


def _levels(operation: Callable[..., host.Fields], schedule: Schedule, **settings: Any) -> Levels:
    """A node's levels from the runtime's operation of the same name."""
    return _as_levels(operation(_schedule_fields(schedule), **settings))


def _schedule_fields(schedule: Schedule) -> dict[str, Any]:
    return vars(schedule) | {"alphas_bar": schedule.alphas_bar.double().cpu().numpy()}


def _fields(levels: Levels) -> host.Fields:
    return {"t": levels.t.double().cpu().numpy(), "ratio": levels.ratio.double().cpu().numpy()}


def _as_levels(fields: host.Fields) -> Levels:
    import torch

    return Levels(**{name: torch.from_numpy(values).to(current_device()) for name, values in fields.items()})

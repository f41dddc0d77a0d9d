"""The noise levels that a sampler visits, as a value, so that any grid works with any solver.

All settings that several of them share:
steps: the number of steps. final: where the last step ends, at ᾱ = 1 (one) or at ᾱ_0 (first). sigma_max: the first
σ/α. sigma_min: the last σ/α before the end. Without them, levels stay in the range that the schedule's model was
trained on, as do all grids that are not listed level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from annotated_types import Ge, MinLen

from guidegraph.graph.device_context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.sampling.settings import Fraction, Offset, Positive, Steps
from guidegraph.nodes.types import Levels, Schedule, Table
from guidegraph_runtime.operations import levels as host
from guidegraph_runtime.operations.levels import Listed
from guidegraph_runtime.tables.noise_levels import Final
from guidegraph_runtime.tables.spacings import Aligned

if TYPE_CHECKING:
    from guidegraph_runtime.tables import noise_levels


NotNegative: TypeAlias = Annotated[float, Ge(0)]


class SplitLevels(NamedTuple):
    before: Levels
    after: Levels


@node("levels.leading", runtime=True)
def leading(schedule: Schedule, *, steps: Steps = 30, offset: Offset = 0, final: Final = "one") -> Levels:
    """Every (T // steps)-th timestep from 0 on (Lin et al. 2023, table 2), the default of DDIM and PNDM.

    offset: added to each timestep; Stable Diffusion has 1.
    """
    return _compute_levels(host.leading, **locals())


@node("levels.trailing", runtime=True)
def trailing(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Every (T / steps)-th timestep from the last one down, rounded (Lin et al. 2023, table 2)."""
    return _compute_levels(host.trailing, **locals())


@node("levels.linspace", runtime=True)
def linspace(
    schedule: Schedule, *, steps: Steps = 30, whole_times: bool = False, lands: bool = False, final: Final = "one"
) -> Levels:
    """Evenly spaced timesteps from the last to the first, both visited: ComfyUI's `normal`, the default of Euler.

    whole_times: round the timesteps. lands: do not visit the first timestep, because the last step ends there, as
    DPM-Solver++ and UniPC do by default.
    """
    return _compute_levels(host.linspace, **locals())


@node("levels.simple", runtime=True)
def simple(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Whole timesteps from the last one down, T / steps apart, rounded up: ComfyUI's `simple`."""
    return _compute_levels(host.simple, **locals())


@node("levels.sgm_uniform", runtime=True)
def sgm_uniform(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Evenly spaced timesteps from the last to the first, without the first: ComfyUI's `sgm_uniform`."""
    return _compute_levels(host.sgm_uniform, **locals())


@node("levels.beta", runtime=True)
def beta(
    schedule: Schedule, *, steps: Steps = 30, a: Positive = 0.6, b: Positive = 0.6, final: Final = "one"
) -> Levels:
    """Whole timesteps at the quantiles of a Beta(a, b) distribution (Lee et al. 2024): dense at both ends.

    a, b: shape parameters; values below 1 make the ends dense. Timesteps that round to the same one are visited once.
    """
    return _compute_levels(host.beta, **locals())


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
    """σ/α evenly spaced in the ρ-th root (Karras et al. 2022, eq. 5). rho: ρ, larger is denser near the data."""
    return _compute_levels(host.karras, **locals())


@node("levels.exponential", runtime=True)
def exponential(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α evenly spaced in the logarithm, that is in λ = log(α/σ) (Lu et al. 2022)."""
    return _compute_levels(host.exponential, **locals())


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
    return _compute_levels(host.polyexponential, **locals())


@node("levels.kl_optimal", runtime=True)
def kl_optimal(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α = tan of evenly spaced angles, optimal for Gaussian data (Sabour et al. 2024)."""
    return _compute_levels(host.kl_optimal, **locals())


@node("levels.ays", runtime=True)
def ays(schedule: Schedule, *, steps: Steps = 10, model: Aligned = "sd1", final: Final = "one") -> Levels:
    """Align Your Steps (Sabour et al. 2024): ten σ/α optimised for a released model, interpolated for other counts.

    model: Stable Diffusion 1, XL or Video.
    """
    return _compute_levels(host.ays, **locals())


@node("levels.timesteps", runtime=True)
def timesteps(
    schedule: Schedule, *, timesteps: Annotated[list[NotNegative], MinLen(1)], final: Listed = "one"
) -> Levels:
    """A list of timesteps, falling, or rising to go from the data to the noise.

    timesteps: from 0 to T − 1, including fractions. final: where the last step ends, ᾱ = 1, ᾱ_0, or the last timestep
    of the list (listed).
    """
    return levels_at_timesteps(schedule, timesteps, final)


@node("levels.sigmas", runtime=True)
def sigmas(schedule: Schedule, *, sigmas: Annotated[list[NotNegative], MinLen(1)], final: Listed = "one") -> Levels:
    """A list of exact σ/α, falling, or rising to go from the data to the noise.

    sigmas: the last step ends at a 0 at the end of the list; beyond the schedule, the network gets the nearest
    timestep. final: where the last step ends if the list has no 0, ᾱ = 1, ᾱ_0, or the last σ/α of the list (listed).
    """
    return levels_at_sigmas(schedule, sigmas, final)


@node("levels.split", runtime=True)
def split(levels: Levels, *, at: Annotated[int, Ge(1)]) -> SplitLevels:
    """Split levels after the first `at` steps, for two samplers or two models in turn."""
    before, after = host.split(_to_fields(levels), at=at)
    return SplitLevels(_from_fields(before), _from_fields(after))


@node("levels.start", runtime=True)
def start(levels: Levels, *, strength: Fraction = 1.0) -> Levels:
    """The last part of the steps, for a start from a picture. strength: the fraction to keep, at least one step."""
    return _from_fields(host.start(_to_fields(levels), strength=strength))


@node("levels.reverse", runtime=True)
def reverse(levels: Levels, schedule: Schedule) -> Levels:
    """The levels from the data to the noise, for inversion with a deterministic sampler.

    They start at the first level that the schedule's model was trained on, because no network is called at σ = 0.
    """
    return _from_fields(host.reverse(_to_fields(levels), _schedule_fields(schedule)))


@node("levels.whole", runtime=True)
def whole(levels: Levels, schedule: Schedule) -> Levels:
    """The levels at the nearest whole timesteps, for networks trained on those alone; equal ones are visited once."""
    return _from_fields(host.whole_timesteps(_to_fields(levels), _schedule_fields(schedule)))


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
    return _compute_levels(host.from_timesteps, schedule, timesteps=list(timesteps), final=final)


def levels_at_sigmas(schedule: Schedule, sigmas: Sequence[float], final: Listed = "one") -> Levels:
    """Levels with exactly these σ/α, falling or rising. The last step ends at a 0 at the end, otherwise at `final`.

    Raises ``ValueError`` for σ/α below 0 or not in order.
    """
    return _compute_levels(host.from_sigmas, schedule, sigmas=list(sigmas), final=final)


def to_runtime_noise(schedule: Schedule) -> noise_levels.NoiseSchedule:
    """Convert a schedule to the runtime's, in float64 NumPy."""
    from guidegraph_runtime.operations.schedule import parse_schedule

    return parse_schedule(_schedule_fields(schedule))


def to_runtime_levels(levels: Levels) -> noise_levels.Levels:
    """Convert levels to the runtime's. Raises ``ValueError`` for levels that neither fall nor rise."""
    return host.parse_levels(_to_fields(levels))


def _compute_levels(operation: Callable[..., host.Fields], schedule: Schedule, **settings: Any) -> Levels:
    """Compute a node's levels by the runtime's operation of the same name."""
    return _from_fields(operation(_schedule_fields(schedule), **settings))


def _schedule_fields(schedule: Schedule) -> dict[str, Any]:
    return vars(schedule) | {"alphas_bar": schedule.alphas_bar.double().cpu().numpy()}


def _to_fields(levels: Levels) -> host.Fields:
    return {"t": levels.t.double().cpu().numpy(), "ratio": levels.ratio.double().cpu().numpy()}


def _from_fields(fields: host.Fields) -> Levels:
    import torch

    return Levels(**{name: torch.from_numpy(values).to(current_device()) for name, values in fields.items()})

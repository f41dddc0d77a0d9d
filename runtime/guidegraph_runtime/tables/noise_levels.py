"""The noise schedule of the tables, and the default levels of a sampler (nothing wired to its `levels`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from guidegraph_runtime.checks import check_array, check_choice, check_fields, check_number
from guidegraph_runtime.declare.settings import Fraction, Offset, Steps
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.tables.form import Form
from guidegraph_runtime.tables.rows import Array, Level, Variable

Spacing: TypeAlias = Literal["leading", "trailing", "linspace"]
Sigmas: TypeAlias = Literal["schedule", "karras", "exponential"]
Final: TypeAlias = Literal["one", "first"]

CLIFF = math.log(2)
"""A schedule whose log(σ/α) rises by more than this in its last timestep ends in pure noise.

The cosine schedule rises from 642 to 20,291 there, one with zero terminal SNR to infinity; the linear one by 1 %.
"""
START = 20.0
"""σ/α of the first default level on a schedule that ends in pure noise."""
LANDING = -1.0
"""The timestep of a landing at σ = 0, where no network is called."""


class Levels(NamedTuple):
    """Noise levels in the order of visits: N + 1 for N steps; the last step lands at the last level.

    t (N+1): timesteps on the schedule's axis, −1 for a landing at σ = 0. ratio (N+1): their σ/α. Both float64. form:
    the form of the schedule.
    """

    t: Array
    ratio: Array
    form: Form = "variance_preserving"

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Levels:
        t, ratio = (np.array([getattr(level, name) for level in levels]) for name in ("t", "ratio"))
        return cls(t, ratio, levels[0].form)

    def to_list(self) -> list[Level]:
        return [Level.at(float(t), float(ratio), self.form) for t, ratio in zip(self.t, self.ratio, strict=True)]


@dataclass(frozen=True)
class Rule:
    """How a family of solvers interprets `spacing`, following its reference implementations.

    rounds: timesteps are rounded. lands: leading and linspace divide the timesteps into steps + 1 points and leave the
    last, t = 0, to the landing; leading timesteps of a flow do so by any rule. full: Karras and exponential levels span
    the trained range, not just the levels from the first to the last timestep of the spacing.
    """

    rounds: bool
    lands: bool
    full: bool


SUBSEQUENCE = Rule(rounds=True, lands=False, full=True)
"""DDPM, DDIM, PNDM: a subsequence of the timesteps of training."""
RATIO = Rule(rounds=False, lands=False, full=False)
"""Solvers in σ/α (Karras et al. 2022): any real t."""
LAMBDA = Rule(rounds=True, lands=True, full=True)
"""Solvers in λ = log(α/σ): DPM-Solver++, UniPC, DEIS."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """log(σ/α) on the schedule's axis of time, and the range low ≤ high of default levels.

    Variance-preserving: t = 0 … T−1, and log(σ/α) is linear between them. Flow: t = 0 … T, and σ is, so that t = T · σ;
    the model's timesteps are 1 … T, and `shift` is the shift of its levels.
    The range holds the timesteps that the model was trained at. If unknown, it is the full schedule or, if that
    ends in pure noise, the timesteps whose σ/α is at most 20.
    """

    log_ratio: Array
    low: float
    high: float
    form: Form = "variance_preserving"
    shift: float = 1.0

    @classmethod
    def of(
        cls,
        alphas_bar: Array,
        trained_from: float | None = None,
        trained_to: float | None = None,
        form: Form = "variance_preserving",
        shift: float = 1.0,
    ) -> NoiseSchedule:
        """Create the schedule of ᾱ, one for each t. Raises ``ValueError`` unless 0 ≤ trained_from < trained_to ≤ T−1.

        In both forms ᾱ is α²/(α² + σ²). On a flow trained from 0, σ of the first timestep is 0, and levels begin at 1.
        """
        with np.errstate(divide="ignore"):
            log_ratio = 0.5 * (np.log1p(-alphas_bar) - np.log(alphas_bar))
        last = len(log_ratio) - 1.0
        default_low, default_high = (1.0, last) if form == "flow" else (0.0, _last_with_signal(log_ratio, last))
        low = default_low if trained_from is None or (form == "flow" and trained_from == 0) else float(trained_from)
        high = default_high if trained_to is None else float(trained_to)
        if not 0 <= low < high <= last:
            raise ValueError(f"expected trained_from below trained_to, from 0 to {last:g}; found {low:g} and {high:g}")
        return cls(log_ratio, low, high, form, shift)

    @property
    def first(self) -> float:
        """The first timestep with noise: 0, or 1 of a flow, whose σ is 0 at t = 0."""
        return 1.0 if self.form == "flow" else 0.0

    @property
    def last(self) -> float:
        """The last timestep: T − 1, or T of a flow."""
        return float(len(self.log_ratio) - 1)

    @property
    def train_steps(self) -> int:
        """T."""
        return len(self.log_ratio) - int(self.first)

    @property
    def whole_times(self) -> int:
        """The number of whole timesteps in the trained range."""
        return math.floor(self.high) - math.ceil(self.low) + 1

    @property
    def lowest(self) -> Level:
        """The level of the first trained timestep; of a whole flow, where the shift moves it, as ComfyUI's σ_min."""
        return self.at_unshifted(self.before_shift().low)

    @property
    def lowest_twice(self) -> Level:
        """`lowest`, which of a whole flow is moved by the shift once more, as the last σ of diffusers' flow schedulers.

        They space times before the shift down to the σ(1/T) after it.
        """
        return self.at_unshifted(self.lowest.t) if self.form == "flow" and self.low == self.first else self.lowest

    def with_signal(self, zero: bool = False) -> NoiseSchedule:
        """Restrict default levels to timesteps where signal is left, if the trained range ends in a cliff.

        zero: keep a schedule that ends at α = 0, for solvers that can start there, as its model was trained to. A flow
        is kept: every solver starts where its model does, at α = 0.
        """
        if self.form == "flow" or not self._ends_in_cliff or (zero and self.at(self.high).alpha == 0):
            return self
        return NoiseSchedule(self.log_ratio, self.low, _last_with_signal(self.log_ratio, self.high))

    @property
    def _ends_in_cliff(self) -> bool:
        """Whether log(σ/α) rises in the last trained timestep more than twice as much as in any before.

        It does on the cosine schedule and with zero terminal SNR; not where all of a few levels are far apart.
        """
        times = np.arange(self.high, -1, -1)[::-1]
        rises = np.diff(np.interp(times, np.arange(len(self.log_ratio)), self.log_ratio))
        return bool(len(rises) and rises[-1] > 2 * rises[:-1].max(initial=CLIFF / 2))

    def near(self, ratio: float) -> Level:
        """The level at the time where σ/α is `ratio` > 0; beyond the schedule, the level of this σ/α itself."""
        low, high = self.log_ratio[[0, -1]]
        return self.at_ratio(ratio) if low <= math.log(ratio) <= high else self.exactly(ratio)

    def near_sigma(self, sigma: float) -> Level:
        """The level of a σ as `sigma_of` counts it, like `near`."""
        return self.near(self.ratio_of(sigma))

    def near_of(self, variable: Variable, s: float) -> Level:
        """The level at the time where a solver's variable is `s` > 0, like `near`."""
        return self.near(s / (1 - s) if variable.straight else s)

    def at(self, t: float) -> Level:
        """The level at time t, rounded to float32 as networks receive t in float32: α and σ belong to that t."""
        t = float(np.float32(t))
        value = float(np.interp(t, np.arange(len(self.log_ratio)), self._values))
        return Level.at(t, self.ratio_of(value) if self.form == "flow" else math.exp(value), self.form)

    def at_unshifted(self, t: float) -> Level:
        """The level at the time that the shift moves t to."""
        return self.at(t if self.shift == 1 else float(self.last * self.shift_sigma(np.array(t / self.last))))

    def before_shift(self) -> NoiseSchedule:
        """The schedule with its range in times before the shift, which `at_unshifted` moves into the range."""
        low, high = (unshift_time(t, self.first, self.last, self.shift) for t in (self.low, self.high))
        return NoiseSchedule(self.log_ratio, low, high, self.form, self.shift)

    def shift_sigma(self, sigma: Array) -> Array:
        """σ′ = sσ/(1 + (s − 1)σ) with the shift s of a flow (Esser et al. 2024, section 5.3.2); exactly 1 at 1."""
        return self.shift * sigma / (self.shift * sigma + (1 - sigma))

    def at_ratio(self, ratio: float) -> Level:
        """The level at the time where σ/α is `ratio`, clamped to the schedule."""
        return self.at(self.time_of(ratio))

    def exactly(self, ratio: float) -> Level:
        """The level whose σ/α is exactly `ratio`, also beyond the schedule, where t is clamped."""
        return Level.at(float(np.float32(self.time_of(ratio))) if ratio > 0 else LANDING, ratio, self.form)

    def time_of(self, ratio: float) -> float:
        """The time where σ/α is `ratio` > 0, clamped to the schedule."""
        value = math.log(ratio) if self.form != "flow" else ratio / (1 + ratio) if ratio < math.inf else 1.0
        return float(np.interp(value, self._values, np.arange(len(self.log_ratio))))

    def sigma_of(self, level: Level) -> float:
        """The σ in which grids are spaced: σ/α, or σ itself of a flow, which is finite where α is 0."""
        return level.sigma if self.form == "flow" else level.ratio

    def ratio_of(self, sigma: float) -> float:
        """The σ/α of a σ as `sigma_of` counts it. Raises ``ValueError`` for a σ of a flow above 1."""
        if self.form != "flow":
            return sigma
        if sigma > 1:
            raise ValueError(f"σ of a flow schedule is from 0 to 1; found {sigma:g}")
        return sigma / (1 - sigma) if sigma < 1 else math.inf

    @cached_property
    def _values(self) -> Array:
        """The values that are linear between timesteps: log(σ/α), or σ of a flow."""
        if self.form != "flow":
            return self.log_ratio
        with np.errstate(over="ignore"):
            sigmas: Array = 1 / (1 + np.exp(-self.log_ratio))
        return sigmas


def levels(
    noise: NoiseSchedule,
    rule: Rule,
    steps: Steps,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    strength: Fraction = 1.0,
) -> list[Level]:
    """The default levels, noisiest first, including the landing: one more than steps.

    final: the landing's ᾱ is 1, or ᾱ_0, for which a last step from t = 0 has length zero. strength: only the last
    fraction of the steps, for a start from a picture.
    """
    check_limit("steps", steps, f"there are {steps:,} steps", "steps")
    trained = noise if sigmas == "schedule" else noise.with_signal()
    if trained.low >= trained.high:
        raise ValueError(
            f"the model knows the timesteps from {noise.low:g} on, where no signal is left for this solver to start "
            "from: use ddim or ddpm, or wire levels"
        )
    if sigmas != "schedule" and rule.full:
        visited = respace(sigmas, steps, trained.at(trained.high), trained.lowest, trained)
    else:
        visited = [noise.at_unshifted(float(t)) for t in timesteps(trained, rule, steps, spacing, offset)]
        if sigmas != "schedule":
            visited = respace(sigmas, steps, visited[0], visited[-1], noise)
    kept = visited[steps - count_kept_steps(steps, strength) :]
    return check_levels(Levels.of([*kept, landing(noise, final)])).to_list()


def parse_schedule(schedule: Mapping[str, Any]) -> NoiseSchedule:
    """Parse the fields of a Schedule. Raises ``ValueError`` for an invalid value."""
    values = check_fields("schedule", schedule, "alphas_bar")
    bar = check_alphas_bar(check_array("schedule.alphas_bar", values["alphas_bar"], "(T)", "f"))
    form, shift = parse_form("schedule", values), check_number("schedule.shift", values.get("shift", 1.0), above=0)
    return NoiseSchedule.of(bar, values.get("trained_from"), values.get("trained_to"), form, shift)


def parse_levels(levels: Mapping[str, Any]) -> Levels:
    """Parse the fields of a Levels. Raises ``ValueError`` for an invalid value."""
    values = check_fields("levels", levels, "t", "ratio")
    t, ratio = (check_array(f"levels.{name}", values[name], "(N+1)", "f").astype(np.float64) for name in ("t", "ratio"))
    return check_levels(Levels(t, ratio, parse_form("levels", values)))


def parse_form(name: str, values: Mapping[str, Any]) -> Form:
    """The form in the fields of a Schedule or of Levels; variance-preserving if they have none."""
    form: Form = check_choice(f"{name}.form", values.get("form", "variance_preserving"), get_args(Form))  # type: ignore[assignment]
    return form


def check_alphas_bar(alphas_bar: Array) -> Array:
    """Check ᾱ (T) and return it in float64. Raises ``ValueError``."""
    array = np.asarray(alphas_bar)
    if array.dtype.kind != "f" or array.ndim != 1 or len(array) < 2 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"expected ᾱ (T), two or more numbers from 0 to 1; found an array {array.shape} of {array.dtype}"
        )
    return array.astype(np.float64)


def check_levels(levels: Levels) -> Levels:
    """Check that levels fall or rise, and return them. Raises ``ValueError``."""
    ratio = levels.ratio
    if levels.t.shape != ratio.shape or ratio.ndim != 1 or len(ratio) < 2:
        raise ValueError(
            f"levels have one t and one σ/α each, two or more; found shapes {levels.t.shape}, {ratio.shape}"
        )
    if np.isnan(ratio).any() or (ratio < 0).any() or np.isnan(levels.t).any():
        raise ValueError("levels have σ/α of at least 0; one of them is negative or not a number")
    is_falling = (ratio[:-1] > ratio[1:]).all() or ((ratio[:-2] > ratio[1:-1]).all() and ratio[-2] == ratio[-1])
    if is_falling and ratio[-2] > 0:
        return levels
    if (ratio[:-1] < ratio[1:]).all() and ratio[0] > 0 and np.isfinite(ratio[-1]):
        return levels
    text = ", ".join(f"{value:.4g}" for value in ratio[:8]) + (", …" if len(ratio) > 8 else "")
    raise ValueError(f"the σ/α of levels fall, or rise, from one to the next and are 0 at the landing alone: {text}")


def landing(noise: NoiseSchedule, final: Final) -> Level:
    """The level where the last step lands: ᾱ = 1, or ᾱ_0."""
    return Level.at(LANDING, 0.0, noise.form) if final == "one" else noise.at(noise.first)


def count_kept_steps(steps: int, strength: float) -> int:
    """The number of last steps for a start from a picture: strength · steps, rounded down, at least one."""
    return max(1, int(steps * strength + 1e-6))


def timesteps(noise: NoiseSchedule, rule: Rule, steps: int, spacing: Spacing, offset: int = 0) -> Array:
    """Timesteps in decreasing order (Lin et al. 2023, table 2).

    They are spaced over the full schedule; if they would leave the trained range, the schedule is mapped onto it. As
    many steps as the trained range has whole timesteps are exactly those timesteps. Those of a flow are real numbers,
    and count down from T, where σ is 1; leading and trailing ones are T / steps apart, down to the landing at 0. They
    are times before the shift, for `at_unshifted`.
    """
    noise = noise.before_shift()
    train_steps, is_flow = noise.train_steps, noise.form == "flow"
    rounds = rule.rounds and not is_flow
    points = steps + (rule.lands and (spacing == "linspace" or (spacing == "leading" and not is_flow)))
    if points > train_steps and (rounds or spacing != "linspace"):
        most = f"which hold {train_steps - (points - steps)} with this spacing"
        raise SettingError("steps", f"{steps} steps do not fit into the schedule's {train_steps} timesteps, {most}")
    if rule.rounds and not rule.lands and offset == 0 and steps == noise.whole_times:
        return np.arange(math.floor(noise.high), math.ceil(noise.low) - 1, -1, dtype=np.float64)
    if spacing == "linspace":
        spaced = np.linspace(0, noise.last, points)[::-1] if points > 1 else np.array([noise.last])
    elif is_flow:
        spaced = noise.last - np.arange(steps) * (train_steps / steps) + offset
    elif spacing == "leading":
        spaced = np.arange(points, dtype=np.float64)[::-1] * (train_steps // points) + offset
    else:
        spaced = np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1
    if is_flow:
        spaced = spaced[:steps]  # σ is 0 at t = 0, where a flow lands
    if spaced[0] > noise.last:
        raise SettingError(
            "offset",
            f"offset {offset} moves the first timestep to {spaced[0]:g}, past the schedule's last, {noise.last:g}",
        )
    return fit_times(spaced, noise, rounds)[:steps]


def unshift_time(t: float, first: float, last: float, shift: float) -> float:
    """The time that a flow's shift moves to t. The ends of the whole schedule, first and last, stay."""
    return t if shift == 1 or t in (first, last) else last * t / (t + shift * (last - t))


def fit_times(t: Array, noise: NoiseSchedule, rounds: bool) -> Array:
    """Map times of the full schedule, in decreasing order, into the trained range.

    Times within the range are unchanged; otherwise 0 … T − 1 is mapped onto low … high. rounds: round the times,
    if they stay distinct.
    """
    if t[0] > noise.high or t[-1] < noise.low:
        t = noise.low + t * ((noise.high - noise.low) / noise.last)
    rounded = np.clip(np.round(t), math.ceil(noise.low), math.floor(noise.high))
    return rounded if rounds and len({*rounded.tolist()}) == len(t) else t


def respace(sigmas: Sigmas, steps: int, first: Level, last: Level, noise: NoiseSchedule) -> list[Level]:
    """Levels from `first` to `last` with σ spaced as in Karras et al. (2022, eq. 5, ρ = 7), or exponentially.

    σ is σ/α, or σ itself of a flow.
    """
    high, low = noise.sigma_of(first), noise.sigma_of(last)
    ramp = np.linspace(0, 1, steps)[1:-1]
    spaced = polynomial(high, low, ramp, 7.0) if sigmas == "karras" else exponential(high, low, ramp)
    return [first, *(noise.at_ratio(noise.ratio_of(float(sigma))) for sigma in spaced), last][:steps]


def polynomial(high: float, low: float, ramp: Array, rho: float) -> Array:
    """From high to low, evenly spaced in the ρ-th root (Karras et al. 2022, eq. 5); ramp from 0 to 1."""
    root: Array = high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))
    return root**rho


def exponential(high: float, low: float, ramp: Array) -> Array:
    """From high to low, evenly spaced in the logarithm; ramp from 0 to 1."""
    spaced: Array = np.exp(math.log(high) + ramp * (math.log(low) - math.log(high)))
    return spaced


def _last_with_signal(log_ratio: Array, last: float) -> float:
    """`last`, or the last whole t with σ/α ≤ 20 if the schedule ends in pure noise at `last`."""
    second_last, at_last = np.interp([last - 1, last], np.arange(len(log_ratio)), log_ratio)
    if at_last - second_last <= CLIFF:
        return last
    return float(np.flatnonzero(log_ratio <= math.log(START)).max(initial=1))


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] with I_x(a, b) = p, by bisection; a, b > 0."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return round((low + high) / 2, 15)  # rounding errors of the fraction are about 1e-16


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the mirrored one converges faster
        return 1 - beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0  # 1 + d₁/(1 + d₂/(1 + …)), evaluated from the inside; 200 terms exceed float64 here
    for n in range(200, 0, -1):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + d / fraction
    return math.exp(log_front) / (a * fraction)


Aligned: TypeAlias = Literal["sd1", "sdxl", "svd"]

# fmt: off
ALIGNED: dict[str, tuple[float, ...]] = {
    "sd1": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
        0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
        0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
# fmt: on
"""σ/α of ten steps, optimised for each model (Sabour et al. 2024, appendix); the last one ends the tenth step."""


def simple(first: float, last: float, steps: int) -> Array:
    """Timesteps from the last of training on, T/steps apart and rounded up: ComfyUI's `simple`."""
    span = last - first + 1
    times: Array = last - np.floor(np.arange(steps) * (span / steps))
    return times


def beta(first: float, last: float, steps: int, a: float, b: float) -> Array:
    """Whole timesteps at the quantiles of a Beta(a, b) distribution (Lee et al. 2024); duplicates are removed."""
    quantiles = 1 - np.linspace(0, 1, steps, endpoint=False)
    positions = np.array([beta_quantile(float(p), a, b) for p in quantiles]) * (last - first)
    times: Array = first + np.round(positions)
    distinct: Array = times[np.append(True, np.diff(times) != 0)]
    return distinct


def beta_sigmas(high: float, low: float, steps: int, a: float, b: float) -> Array:
    """σ from high to low at the quantiles of a Beta(a, b) distribution: diffusers' `use_beta_sigmas`."""
    quantiles = 1 - np.linspace(0, 1, steps)
    sigmas: Array = low + np.array([beta_quantile(float(p), a, b) for p in quantiles]) * (high - low)
    return sigmas


def polyexponential(high: float, low: float, steps: int, rho: float) -> Array:
    """σ/α whose logarithm is a polynomial of degree ρ: k-diffusion's; ρ = 1 is exponential."""
    return exponential(high, low, 1 - np.linspace(1, 0, steps) ** rho)


def kl_optimal(high: float, low: float, steps: int) -> Array:
    """σ/α = tan of evenly spaced angles (Sabour et al. 2024, eq. 11, the optimum for Gaussian data)."""
    ramp = np.linspace(0, 1, steps)
    angles: Array = ramp * math.atan(low) + (1 - ramp) * math.atan(high)
    return np.tan(angles)


def align_your_steps(model: Aligned, steps: int) -> Array:
    """Align Your Steps (Sabour et al. 2024): ten steps optimised for a model, interpolated in log σ for other counts.

    Returns `steps` levels, without the end of the last step.
    """
    log_ratios = np.log(ALIGNED[model])
    return np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(log_ratios)), log_ratios))[:-1]

"""The types of samplers: the levels that they visit, their tables of rows, and their state between rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from guidegraph.graph.late import torch
from guidegraph.graph.types import Tensor, is_tensor, structured
from guidegraph.nodes.shape_checks import cast_like
from guidegraph_runtime.tables.form import Form

PredictionKind: TypeAlias = Literal["eps", "x0", "v", "flow"]
KINDS: tuple[PredictionKind, ...] = get_args(PredictionKind)
"""The kinds of predictions: ε, x0, v = αε − σx0 (Salimans & Ho 2022), and flow, u = ε − x0 (Lipman et al. 2023)."""


def check_kind(kind: str) -> None:
    """Raise ``ValueError`` for an unknown kind of prediction."""
    if kind not in KINDS:
        raise ValueError(f"a prediction is of kind 'eps', 'x0', 'v' or 'flow'; found {kind!r}: `score` gives the score")


def widen_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a sampler computes, at least float32, whatever the dtype of the networks."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.promote_types(dtype, torch.float32)


class NoiseLevel(NamedTuple):
    """A noisy x = αx0 + σε (B, …), with α and σ in shapes that broadcast to it, of a schedule of this form.

    The methods take the value (B, …) of a prediction that was made there, and its kind, one of `KINDS`. α² + σ² is 1
    unless the form is flow.
    """

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    form: Form = "variance_preserving"

    def x0(self, value: Tensor, kind: str) -> Tensor:
        """x̂0 (B, …). Undefined for ε where α = 0."""
        if kind == "eps":
            return (self.x - self.sigma * value) / self.alpha
        if kind == "v":
            return self._divide_by_power(self.alpha * self.x - self.sigma * value)
        return (self.x - self.sigma * value) / (self.alpha + self.sigma) if kind == "flow" else value

    def eps(self, value: Tensor, kind: str) -> Tensor:
        """ε̂ (B, …). Undefined for x0 where σ = 0."""
        if kind == "x0":
            return (self.x - self.alpha * value) / self.sigma
        if kind == "v":
            return self._divide_by_power(self.alpha * value + self.sigma * self.x)
        return (self.x + self.alpha * value) / (self.alpha + self.sigma) if kind == "flow" else value

    def v(self, value: Tensor, kind: str) -> Tensor:
        """v̂ = αε − σx0 (B, …). Undefined for ε where α = 0, and for x0 where σ = 0."""
        if kind == "eps":
            return (self._times_power(value) - self.sigma * self.x) / self.alpha
        if kind == "x0":
            return (self.alpha * self.x - self._times_power(value)) / self.sigma
        return self.alpha * self.eps(value, kind) - self.sigma * self.x0(value, kind) if kind == "flow" else value

    def flow(self, value: Tensor, kind: str) -> Tensor:
        """û = ε − x0 (B, …). Undefined for ε where α = 0, and for x0 where σ = 0."""
        if kind == "eps":
            return ((self.alpha + self.sigma) * value - self.x) / self.alpha
        if kind == "x0":
            return (self.x - (self.alpha + self.sigma) * value) / self.sigma
        return self.eps(value, kind) - self.x0(value, kind) if kind == "v" else value

    def score(self, value: Tensor, kind: str) -> Tensor:
        """∇ₓ log p(x) = −ε̂/σ (B, …). Undefined where σ = 0."""
        return -self.eps(value, kind) / self.sigma

    def convert(self, value: Tensor, kind: str, to: str) -> Tensor:
        """The value in another kind. Raises ``ValueError`` for an unknown one."""
        check_kind(to)
        return {"eps": self.eps, "x0": self.x0, "v": self.v, "flow": self.flow}[to](value, kind)

    def _times_power(self, value: Tensor) -> Tensor:
        return (self.alpha**2 + self.sigma**2) * value if self.form == "flow" else value

    def _divide_by_power(self, value: Tensor) -> Tensor:
        return value / (self.alpha**2 + self.sigma**2) if self.form == "flow" else value


@structured
@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels that a sampler visits, in order: N + 1 for N steps. The last step ends at the last level.

    t: (N+1), timesteps on the schedule's axis, −1 where the last step ends at σ = 0. ratio: (N+1), σ/α. Both float64.
    form: the schedule's form.
    """

    leaf_axes: ClassVar = {"t": ("N",), "ratio": ("N",)}

    t: Tensor
    ratio: Tensor
    form: Form = "variance_preserving"


@structured
@dataclass(frozen=True, eq=False)
class Scheduler:
    """A sampler as a table of R rows, one for each model call. ``scheduler.step`` applies one row.

    matrix: (R, 1+K, 4+K), [x′, s′₁…s′_K] = M · [x, x0, ε, noise, s₁…s_K] with K = 4, x in the form of the schedule.
    alpha, sigma, t: (R), the noise level of the row's model call. score_gain: (R), Σ in μ + Σ · score.
    log_variance: (R, 2), log β̃ and log β, between which a learned variance interpolates. All of these are float64.
    position, length: (R), int64, the number of the row in its sampler, 0 … length − 1, and the number of that sampler's
    rows. Left out, the rows are one sampler's, in order.
    The other fields apply to every row: how x̂0 is clipped, which inputs the table reads, and the schedule's form. In a
    table of several samplers, the fields of clipping may be tensors (R): clip, threshold and threshold_max float64,
    with NaN for none, and rederive_eps a flag.
    joined: whether the rows belong to several samplers, one after the other.
    renoisable: whether the rows noise x̂0 again with ε and read neither x nor kept values, so that another ε can take
    its place. reads_eps: whether they read ε at all; bundles of earlier versions check it in place of renoisable.
    """

    leaf_axes: ClassVar = {
        "matrix": ("R", 5, 8),
        **dict.fromkeys(("alpha", "sigma", "t", "score_gain"), ("R",)),
        "log_variance": ("R", 2),
        **dict.fromkeys(("position", "length", "clip", "threshold", "threshold_max", "rederive_eps"), ("R",)),
    }

    matrix: Tensor
    alpha: Tensor
    sigma: Tensor
    t: Tensor
    score_gain: Tensor
    log_variance: Tensor
    clip: float | Tensor | None = None
    threshold: float | Tensor | None = None
    threshold_max: float | Tensor | None = None
    rederive_eps: bool | Tensor = True
    learned: bool = False
    reads_eps: bool = True
    renoisable: bool = False
    reads_noise: bool = False
    reads_score: bool = False
    zero_snr: bool = False
    form: Form = "variance_preserving"
    position: Tensor | None = None
    length: Tensor | None = None
    joined: bool = False

    def __post_init__(self) -> None:
        """Number the rows of a table without numbers, or whose numbers do not match its rows."""
        if is_tensor(self.t) and (self.position is None or self.length is None or self.position.shape != self.t.shape):
            ones = torch.ones_like(self.t, dtype=torch.int64)
            object.__setattr__(self, "position", ones.cumsum(0) - 1)
            object.__setattr__(self, "length", ones.sum().expand_as(ones))

    @property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """position and length."""
        assert self.position is not None
        assert self.length is not None
        return self.position, self.length


@structured
@dataclass(frozen=True, eq=False)
class SchedulerState:
    """A sampler's state: ``index``, int64, of the next row, and ``slots`` (K, …x), values kept between rows.

    index: (1), one row for all samples, or (B), a row for each.
    The shape of x is not known before the first step, so the slots start as K zeros; the first step expands them.
    """

    leaf_axes: ClassVar = {"index": ("B",), "slots": ("K", "B", "C", "H", "W")}
    leaf_indices: ClassVar = {"index": "R"}

    index: Tensor
    slots: Tensor

    def sized_slots(self, like: Tensor) -> Tensor:
        """The slots expanded to (K, …), in the shape and dtype and on the device of ``like``."""
        slots = cast_like(self.slots, like)
        return slots.reshape(-1, *(1,) * like.ndim).expand(-1, *like.shape) if slots.ndim == 1 else slots

    def fit_to_inputs(self, inputs: Mapping[str, Any]) -> SchedulerState:
        """The state with slots of the size of the port ``x`` of the call that reads it, for a graph of that call.

        They are contiguous, as in later steps, so that torch.compile does not compile the call twice.
        """
        x: Any = inputs.get("x")
        if self.slots.ndim > 1 or not is_tensor(x):
            return self
        return replace(self, slots=self.sized_slots(x.to(widen_dtype(x.dtype))).contiguous())

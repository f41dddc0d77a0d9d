"""Conversions between ε, x0, v, u and score at x = αx0 + σε: the equations, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

from guidegraph.graph.types import Tensor
from guidegraph_runtime.tables.form import Form

if TYPE_CHECKING:
    import torch

PredictionKind: TypeAlias = Literal["eps", "x0", "v", "flow"]
KINDS: tuple[PredictionKind, ...] = get_args(PredictionKind)
"""The kinds of predictions: ε, x0, v = αε − σx0 (Salimans & Ho 2022), and flow, u = ε − x0 (Lipman et al. 2023)."""


def check_kind(kind: str) -> None:
    """Raise ``ValueError`` for an unknown kind of prediction."""
    if kind not in KINDS:
        raise ValueError(f"a prediction is of kind 'eps', 'x0', 'v' or 'flow'; found {kind!r}: `score` gives the score")


def widen_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a sampler computes, at least float32, whatever the dtype of the networks."""
    import torch

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

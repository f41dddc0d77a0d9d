"""Conversions between ε, x0, v and score at x = αx0 + σε: the equations, written once."""

from __future__ import annotations

from dataclasses import dataclass

from guidegraph.graph.types import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """A noisy x = αx0 + σε (B, …), with α and σ in shapes that broadcast to it.

    The methods take the value (B, …) of a prediction that was made there, and its kind: eps, x0 or v.
    """

    x: Tensor
    alpha: Tensor
    sigma: Tensor

    def x0(self, value: Tensor, kind: str) -> Tensor:
        """x̂0 (B, …). Undefined for ε where α = 0."""
        if kind == "eps":
            return (self.x - self.sigma * value) / self.alpha
        return self.alpha * self.x - self.sigma * value if kind == "v" else value

    def eps(self, value: Tensor, kind: str) -> Tensor:
        """ε̂ (B, …)."""
        if kind == "x0":
            return (self.x - self.alpha * value) / self.sigma
        return self.alpha * value + self.sigma * self.x if kind == "v" else value

    def v(self, value: Tensor, kind: str) -> Tensor:
        """v̂ = αε − σx0 (B, …), Salimans & Ho 2022."""
        if kind == "eps":
            return (value - self.sigma * self.x) / self.alpha
        return (self.alpha * self.x - value) / self.sigma if kind == "x0" else value

    def score(self, value: Tensor, kind: str) -> Tensor:
        """∇ₓ log p(x) = −ε̂/σ (B, …). Undefined where σ = 0."""
        return -self.eps(value, kind) / self.sigma

    def convert(self, value: Tensor, kind: str, to: str) -> Tensor:
        """The value in another kind. Raises ``ValueError`` for an unknown one."""
        if to not in ("eps", "x0", "v"):
            raise ValueError(f"a prediction is of kind 'eps', 'x0' or 'v'; found {to!r}: `score` gives the score")
        return {"eps": self.eps, "x0": self.x0, "v": self.v}[to](value, kind)

"""Conversions between ε, x0, v and score at x = αx0 + σε: the equations, written once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guidegraph.graph.types import Tensor

if TYPE_CHECKING:
    from guidegraph.nodes.types import Prediction, PredictionKind


@dataclass(frozen=True)
class NoiseLevel:
    """A noisy x = αx0 + σε (B, …), with α and σ in shapes that broadcast to it; predictions are made there."""

    x: Tensor
    alpha: Tensor
    sigma: Tensor

    def x0(self, prediction: Prediction) -> Tensor:
        """x̂0 (B, …). Undefined for ε where α = 0."""
        if prediction.kind == "eps":
            return (self.x - self.sigma * prediction.value) / self.alpha
        return self.alpha * self.x - self.sigma * prediction.value if prediction.kind == "v" else prediction.value

    def eps(self, prediction: Prediction) -> Tensor:
        """ε̂ (B, …)."""
        if prediction.kind == "x0":
            return (self.x - self.alpha * prediction.value) / self.sigma
        return self.alpha * prediction.value + self.sigma * self.x if prediction.kind == "v" else prediction.value

    def v(self, prediction: Prediction) -> Tensor:
        """v̂ = αε − σx0 (B, …), Salimans & Ho 2022."""
        if prediction.kind == "eps":
            return (prediction.value - self.sigma * self.x) / self.alpha
        return (self.alpha * self.x - prediction.value) / self.sigma if prediction.kind == "x0" else prediction.value

    def score(self, prediction: Prediction) -> Tensor:
        """∇ₓ log p(x) = −ε̂/σ (B, …). Undefined where σ = 0."""
        return -self.eps(prediction) / self.sigma

    def convert(self, prediction: Prediction, kind: PredictionKind) -> Prediction:
        """The prediction in another kind, with its learned variance. Raises ``ValueError`` for an unknown kind."""
        if kind not in ("eps", "x0", "v"):
            raise ValueError(f"a prediction is of kind 'eps', 'x0' or 'v'; found {kind!r}: `score` gives the score")
        to = {"eps": self.eps, "x0": self.x0, "v": self.v}[kind]
        return replace(prediction, value=to(prediction), kind=kind)

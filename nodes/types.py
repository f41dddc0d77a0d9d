"""The port types of conditional diffusion.

Tensors are named for the checker: ``Tensor ⊃ Sample ⊃ {Image, Latent, Noise}`` and
``Tensor ⊃ {Score, Mask, SemanticMap, Label, Timesteps}``. The structured types are small frozen
dataclasses, registered as pytrees, so that they can be traced and exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from guidegraph.graph.types import Tensor, is_tensor, structured

if TYPE_CHECKING:
    Sample = Tensor
    Image = Tensor
    Latent = Tensor
    Noise = Tensor
    Score = Tensor
    Mask = Tensor
    SemanticMap = Tensor
    Label = Tensor
    Timesteps = Tensor
else:

    class Sample(Tensor):
        """A batch of pictures or latents: (B, C, H, W)."""

        axes = ("B", "C", "H", "W")

    class Image(Sample):
        """RGB pictures: (B, 3, H, W) in [-1, 1]."""

        axes = ("B", 3, "H", "W")

    class Latent(Sample):
        """Latents of an autoencoder: (B, C, h, w)."""

    class Noise(Sample):
        """Standard normal noise: (B, C, H, W)."""

    class Score(Tensor):
        """∇ₓ log p, in the shape of x."""

    class Mask(Tensor):
        """1 where something applies, 0 elsewhere: (B, 1, H, W)."""

        axes = ("B", 1, "H", "W")

    class SemanticMap(Tensor):
        """One-hot classes: (B, K, H, W)."""

        axes = ("B", "K", "H", "W")

    class Label(Tensor):
        """Class indices: (B), int64."""

        axes = ("B",)
        integer = True

    class Timesteps(Tensor):
        """Times on the schedule's own axis: (1) or (B), float32."""

        axes = ("B",)


Scale: TypeAlias = float | Tensor
"""A guidance scale: one number, or a tensor (B) with one for each sample."""

PredictionKind: TypeAlias = Literal["eps", "x0", "v"]


def per_sample(scale: Any, like: Any) -> Any:
    """A scale that multiplies ``like`` (B, …): a tensor (B) gets trailing axes, a number stays."""
    if is_tensor(scale) and scale.ndim == 1:
        return scale.to(device=like.device).reshape(-1, *(1,) * (like.ndim - 1))
    return scale


@structured
@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x_t: ``value`` (B, C, H, W), ε, x0 or v by ``kind``.

    ``variance`` is the raw learned variance in [-1, 1], in the shape of ``value``, where the network
    has one. Arithmetic acts on the value and needs equal kinds; a difference keeps the variance of
    what it subtracts from, and a sum keeps that of its right operand (the left's where it has none), so
    that ``uncond + scale * (cond - uncond)`` keeps cond's.
    """

    value: Tensor
    kind: PredictionKind
    variance: Tensor | None = None

    def _same(self, other: Prediction) -> None:
        if self.kind != other.kind:
            raise ValueError(f"predictions of kinds '{self.kind}' and '{other.kind}' do not add: convert one first")

    def __add__(self, other: Prediction) -> Prediction:
        self._same(other)
        variance = self.variance if other.variance is None else other.variance
        return Prediction(self.value + other.value, self.kind, variance)

    def __sub__(self, other: Prediction) -> Prediction:
        self._same(other)
        return replace(self, value=self.value - other.value)

    def __mul__(self, scale: Scale) -> Prediction:
        return replace(self, value=self.value * per_sample(scale, self.value))

    __rmul__ = __mul__

    def __truediv__(self, scale: Scale) -> Prediction:
        return replace(self, value=self.value / per_sample(scale, self.value))

    def __neg__(self) -> Prediction:
        return replace(self, value=-self.value)


@structured
@dataclass(frozen=True)
class Condition:
    """What a denoiser is conditioned on; every field may be absent.

    vector: (B, D), added to the time embedding. tokens: (B, M, D), for cross-attention, with mask
    (B, M), true where a token counts. spatial: (B, C, H, W), concatenated to x.
    The leading axis is B, or 1 for the same condition in every sample.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    spatial: Tensor | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A noise-prediction network: x (B, C, H, W), t (B) float32 and a condition give a prediction."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction: ...


@runtime_checkable
class Classifier(Protocol):
    """log p(y | x_t) up to a constant: x (B, C, H, W) and t (B) give logits (B, K)."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Texts to a condition with tokens (B, M, D) and, where the model has one, a vector."""

    def __call__(self, texts: Sequence[str]) -> Condition: ...


@runtime_checkable
class Autoencoder(Protocol):
    """Pictures to latents of unit scale and back; the scale belongs to the autoencoder."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...

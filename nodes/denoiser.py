"""Calls of a denoiser."""

from __future__ import annotations

from dataclasses import dataclass, fields

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shapes import for_batch
from guidegraph.nodes.types import Condition, Denoiser, Prediction, Sample, Scale, Timesteps


@node("denoiser.predict", batchable=("x", "t", "condition"))
def predict(denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition | None = None) -> Prediction:
    """What the denoiser says of x (B, C, H, W) at t (1) or (B) under a condition with leading axis 1 or B."""
    batch = x.shape[0]
    return denoiser(x, for_batch(t, batch, "t"), expand(condition or Condition(), batch))


def expand(condition: Condition, batch: int) -> Condition:
    """The condition with a leading axis of `batch` in every field."""

    def repeated(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        if value.shape[0] not in (batch, 1):
            raise ValueError(
                f"the condition is for {value.shape[0]} samples and x has {batch}: give one condition for all, or "
                f"start from noise with batch {value.shape[0]}"
            )
        return value.expand(batch, *value.shape[1:])

    return Condition(**{field.name: repeated(getattr(condition, field.name)) for field in fields(condition)})


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance as a denoiser of its own: the condition of a call takes the place of `positive`.

    An empty condition in the call means `positive`.
    """

    denoiser: Denoiser
    positive: Condition
    negative: Condition
    scale: Scale

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        condition = condition or Condition()
        empty = all(getattr(condition, field.name) is None for field in fields(condition))
        cond = predict(self.denoiser, x, t, self.positive if empty else condition)
        uncond = predict(self.denoiser, x, t, self.negative)
        return uncond + self.scale * (cond - uncond)


@node("denoiser.guided")
def guided(denoiser: Denoiser, positive: Condition, negative: Condition, *, scale: Scale = 7.5) -> Denoiser:
    """A denoiser that applies classifier-free guidance inside, so that a gradient can be taken through it.

    scale: that of `guidance.cfg`.
    """
    return GuidedDenoiser(denoiser, positive, negative, scale)

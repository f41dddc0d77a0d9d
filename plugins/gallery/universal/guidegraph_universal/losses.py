"""Losses on pictures as values: ℓ(c, f(·)) of universal guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from annotated_types import Ge, Le

from guidegraph import Condition, ImageEmbedder, Mask, Segmenter, SemanticMap, Tensor, current_device, node, structured

Share = Annotated[float, Ge(0), Le(1)]


@runtime_checkable
class Loss(Protocol):
    """Pictures (B, 3, H, W), in [-1, 1] or a little beyond, to a loss (B), differentiable."""

    def __call__(self, image: Tensor) -> Tensor: ...


@structured
@dataclass(frozen=True, eq=False)
class ColourLoss:
    """The squared distance of the mean colour, where the mask (B, 1, H, W) is 1, from colour (1, 3) in [-1, 1]."""

    leaf_axes: ClassVar = {"colour": (1, 3), "mask": ("B", 1, "H", "W")}

    colour: Tensor
    mask: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[1] != 3:
            raise ValueError(
                f"a colour is that of pictures (B, 3, H, W); found shape {tuple(image.shape)}: wire 'autoencoder' "
                "if the model is one of latents"
            )
        if self.mask is None:
            mean = image.mean((2, 3))
        else:
            share = self.mask.to(image)
            mean = (share * image).sum((2, 3)) / share.sum((2, 3)).clamp(min=1e-6)
        return (mean - self.colour.to(image)).square().sum(1)


@node("universal.colour", shape=lambda mask: (1,) if mask is None else mask.shape[:1])
def colour(mask: Mask | None = None, *, red: Share = 0.5, green: Share = 0.5, blue: Share = 0.5) -> Loss:
    """The squared distance of the mean colour, where a mask (B, 1, H, W) is 1, from one of red, green and blue.

    red, green, blue: each in [0, 1]; the distance is between values in [-1, 1].
    """
    import torch

    channels = [torch.as_tensor(value, dtype=torch.float32, device=current_device()) for value in (red, green, blue)]
    return ColourLoss(2 * torch.stack(channels).unsqueeze(0) - 1, mask)


@structured
@dataclass(frozen=True, eq=False)
class TextLoss:
    """1 − cosine of the vector (B, D) of a picture and the target's."""

    leaf_axes: ClassVar = {"target": ("B", "D")}

    embedder: ImageEmbedder
    target: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        import torch

        vector = self.embedder(image).vector
        if vector is None:
            raise ValueError("the embedder of pictures gives no vector to compare with the text's")
        return 1 - torch.cosine_similarity(vector, self.target.to(vector), dim=-1)


@node("universal.text", shape=lambda condition: condition.shape[:1])
def text(embedder: ImageEmbedder, condition: Condition) -> Loss:
    """1 − cosine of a picture's vector and a text's, for an embedder of pictures trained into the space of the text's.

    Raises an error for a condition without a vector.
    """
    if condition.vector is None:
        raise ValueError(
            "the condition has no vector to compare a picture's with: encode a text whose embedder gives one"
        )
    return TextLoss(embedder, condition.vector)


@structured
@dataclass(frozen=True, eq=False)
class MaskLoss:
    """Mean cross-entropy over the pixels of a segmenter's classes and a map (B, K, H, W)."""

    leaf_axes: ClassVar = {"semantic": ("B", "K", "H", "W")}

    segmenter: Segmenter
    semantic: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        import torch

        log_p = torch.log_softmax(self.segmenter(image), 1)
        return -(self.semantic.to(log_p) * log_p).sum(1).mean((1, 2))


@node("universal.mask", shape=lambda semantic: semantic.shape[:1])
def mask(segmenter: Segmenter, semantic: SemanticMap) -> Loss:
    """Mean cross-entropy of a segmenter's classes of a picture with a one-hot map (B, K, H, W) of its size."""
    return MaskLoss(segmenter, semantic)

"""What nodes ask of the shapes of tensors that belong together. Each raises ``ValueError`` that says what it found."""

from __future__ import annotations

from guidegraph.graph.types import Tensor


def for_batch(value: Tensor, batch: int, what: str) -> Tensor:
    """A value (1, …) or (B, …) with a leading axis of `batch`; `what` it is: "t", "the label"."""
    if value.ndim == 0 or value.shape[0] not in (batch, 1):
        raise ValueError(
            f"{what} has shape {tuple(value.shape)} and x has {batch} samples: give one for all or for each"
        )
    return value.expand(batch, *value.shape[1:])


def over_pictures(mask: Tensor, image: Tensor) -> Tensor:
    """A mask (1, 1, H, W) or (B, 1, H, W) as (B, 1, H, W), for pictures or maps (B, C, H, W)."""
    if mask.shape[1:] != (1, *image.shape[2:]) or mask.shape[0] not in (image.shape[0], 1):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} and the pictures have {tuple(image.shape)}: give a mask of their "
            "size, (1, 1, H, W) or (B, 1, H, W)"
        )
    return mask.expand(image.shape[0], -1, -1, -1)


def as_share(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of any dtype in that of pictures; its values are from 0 to 1, which is checked but where it is traced."""
    if has_values(mask) and mask.numel() and not (mask.min() >= 0 and mask.max() <= 1):
        low, high = float(mask.min()), float(mask.max())
        raise ValueError(f"a mask has values from 0 to 1; found {low:g} … {high:g}: divide it by its largest value")
    return mask.to(like)


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has values to look at, which it has not while a graph is traced."""
    import torch

    return type(tensor) is torch.Tensor and not torch.compiler.is_compiling()


def check_alike(what: str, *tensors: Tensor, start: int = 1) -> None:
    """Tensors have the same axes from `start` on, and the leading axis B or 1; `what` they are: "x0 and noise"."""
    batch = max(tensor.shape[0] for tensor in tensors)
    size = tensors[0].shape[start:]
    if any(tensor.shape[start:] != size or tensor.shape[0] not in (batch, 1) for tensor in tensors):
        found = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"{what} must be of one size, and of one batch or one for all; found shapes {found}")


def check_floats(*pictures: Tensor) -> None:
    """Pictures are floats: bytes would be taken for values far outside of [-1, 1], without an error."""
    for picture in pictures:
        if not picture.is_floating_point():
            raise ValueError(f"pictures are floats in [-1, 1]; found {picture.dtype}: read them with image.load")


def check_sides(image: Tensor, factor: int, what: str) -> None:
    """The sides of pictures (B, C, H, W) are multiples of `factor`; `what` takes them: "the autoencoder"."""
    if image.shape[2] % factor or image.shape[3] % factor:
        raise ValueError(
            f"{what} takes pictures whose sides are multiples of {factor}; found {image.shape[2]} × {image.shape[3]}: "
            "resize them with image.resize"
        )


def check_channels(x: Tensor, channels: int, what: str) -> None:
    """Samples (B, C, …) have as many channels as `what`, "the classifier", takes."""
    if x.ndim < 2 or x.shape[1] != channels:
        raise ValueError(f"{what} takes {channels} channels; found shape {tuple(x.shape)}")

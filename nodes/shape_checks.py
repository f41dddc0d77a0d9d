"""Checks of tensors that nodes share. Each raises ``ValueError`` with the shape or the kind of values found."""

from __future__ import annotations

from typing import Any

from guidegraph.graph.late import torch
from guidegraph.graph.types import Tensor


def expand_to_batch(value: Tensor, batch: int, label: str) -> Tensor:
    """Expand a value (1, …) or (B, …) to a leading axis of `batch`. `label`: its name in the error, such as "t"."""
    if value.ndim == 0 or value.shape[0] not in (batch, 1):
        raise ValueError(
            f"{label} has shape {tuple(value.shape)} and x has {batch} samples: give one for all or for each"
        )
    return expand_leading_axis(value, batch)


def expand_leading_axis(value: Tensor, batch: int) -> Tensor:
    """A value (1, …) or (B, …) with a leading axis of `batch`; unless traced, the value itself if it has that axis."""
    if value.shape[0] == batch and has_values(value):
        return value
    return value.expand(batch, *value.shape[1:])


def expand_mask(mask: Tensor, image: Tensor) -> Tensor:
    """A mask (1, 1, H, W) or (B, 1, H, W) as (B, 1, H, W), for pictures or maps (B, C, H, W)."""
    if mask.shape[1:] != (1, *image.shape[2:]) or mask.shape[0] not in (image.shape[0], 1):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} and the pictures have {tuple(image.shape)}: give a mask of their "
            "size, (1, 1, H, W) or (B, 1, H, W)"
        )
    return mask.expand(image.shape[0], -1, -1, -1)


def cast_mask(mask: Tensor, like: Tensor) -> Tensor:
    """The mask in the dtype and on the device of pictures. Checks that its values are from 0 to 1, unless traced."""
    if has_values(mask) and mask.numel() and not (mask.min() >= 0 and mask.max() <= 1):
        low, high = float(mask.min()), float(mask.max())
        raise ValueError(f"a mask has values from 0 to 1; found {low:g} … {high:g}: divide it by its largest value")
    return mask.to(like)


def cast_like(value: Tensor, like: Tensor) -> Tensor:
    """A value in the dtype and on the device of another; the value itself if it has both."""
    return value if value.dtype == like.dtype and value.device == like.device else value.to(like)


def has_values(*tensors: Tensor) -> bool:
    """Whether the values of tensors, and of results computed from them, can be read: not while a graph is traced."""
    for tensor in tensors:
        if type(tensor) is not torch.Tensor:
            return False
    core: Any = torch._C
    return not torch.compiler.is_compiling() and core._get_dispatch_mode(core._TorchDispatchModeKey.FAKE) is None


def is_transformed() -> bool:
    """Whether tracing, a dispatch mode, `torch.func` or forward-mode derivatives record or transform calls."""
    core: Any = torch._C
    return bool(
        core._len_torch_dispatch_stack()
        or core._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or core._is_tracing()
    )


def check_compatible(label: str, *tensors: Tensor, start: int = 1) -> None:
    """Check that tensors have the same axes from `start` on, and a leading axis of B or 1.

    `label`: their name in the error, such as "x0 and noise".
    """
    first = tensors[0].shape
    if all(tensor.shape == first for tensor in tensors):
        return
    batch = max(tensor.shape[0] for tensor in tensors)
    size = tensors[0].shape[start:]
    if any(tensor.shape[start:] != size or tensor.shape[0] not in (batch, 1) for tensor in tensors):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"{label} must be of one size, and of one batch or one for all; found shapes {shapes}")


def check_finite(label: str, values: Tensor) -> None:
    """Check that values are finite, unless traced: the argmax of NaN is NaN's place. `label`: as in "the logits"."""
    if has_values(values) and not bool(values.isfinite().all()):
        raise ValueError(f"{label} have values that are not finite: look at the samples that they are of")


def check_floats(*pictures: Tensor) -> None:
    """Check that pictures are floats: bytes would silently count as values far outside [-1, 1]."""
    for picture in pictures:
        if not picture.is_floating_point():
            raise ValueError(f"pictures are floats in [-1, 1]; found {picture.dtype}: read them with image.load")


def check_pairs(image: Tensor, reference: Tensor) -> None:
    """Check that two batches of pictures have one shape, and are floats."""
    if image.shape != reference.shape:
        raise ValueError(f"pictures of shapes {tuple(image.shape)} and {tuple(reference.shape)} cannot be compared")
    check_floats(image, reference)


def check_sides(image: Tensor, factor: int, label: str) -> None:
    """Check that the sides of pictures (B, C, H, W) are multiples of `factor`. `label`: who needs it, for the error."""
    if image.shape[2] % factor or image.shape[3] % factor:
        raise ValueError(
            f"{label} takes pictures whose sides are multiples of {factor}; found {image.shape[2]} × {image.shape[3]}: "
            "resize them with image.resize"
        )


def check_channels(x: Tensor, channels: int, label: str) -> None:
    """Check that samples (B, C, …) have `channels` channels. `label`: who needs it, such as "the classifier"."""
    if x.ndim < 2 or x.shape[1] != channels:
        raise ValueError(f"{label} takes {channels} channels; found shape {tuple(x.shape)}")

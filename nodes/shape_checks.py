"""Checks of tensors that nodes share, and rules for the shapes of their outputs.

A check raises ``ValueError`` with the shape or the kind of values found. A rule is a value of the trait ``shape``. For
it, a port is an object with a ``shape``, of which the leading axes are known, or None. It returns leading axes too, or
None, and raises ``ValueError`` for shapes that do not match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidegraph.graph.types import Tensor
from guidegraph_runtime.admission import SampleCount, Shape, find_batch_problem, find_common_batch
from guidegraph_runtime.operations.text import constant_shape


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
    import torch

    for tensor in tensors:
        if type(tensor) is not torch.Tensor:
            return False
    core: Any = torch._C
    return not torch.compiler.is_compiling() and core._get_dispatch_mode(core._TorchDispatchModeKey.FAKE) is None


def is_transformed() -> bool:
    """Whether tracing, a dispatch mode, `torch.func` or forward-mode derivatives record or transform calls."""
    import torch

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


def rows_of(value: Any) -> Shape:
    """One row for a text or a number, one per element of a list, and the leading axis of an object with a shape."""
    if hasattr(value, "shape"):
        return tuple(value.shape[:1])
    return (len(value),) if isinstance(value, (list, tuple)) else (1,)


def prompt_rows(prompt: Any) -> Shape:
    return rows_of(prompt)


def text_rows(text: Any) -> Shape:
    return rows_of(text)


def condition_rows(condition: Any) -> Shape:
    return rows_of(condition)


def like_rows(like: Any) -> Shape:
    return rows_of(like)


def image_rows(image: Any) -> Shape:
    return rows_of(image)


def mask_rows(mask: Any) -> Shape:
    return rows_of(mask)


def semantic_rows(semantic: Any) -> Shape:
    return rows_of(semantic)


def label_rows(label: Any) -> Shape:
    return rows_of(label)


def layout_rows(layout: Any) -> Shape:
    return rows_of(layout)


def object_rows(object: Any) -> Shape:
    return rows_of(object)


def map_object_rows(semantic: Any, most: Any) -> dict[str, Shape]:
    """The classes and the boxes of up to `most` objects in each map."""
    rows = (*rows_of(semantic), most)
    return {"object": rows, "box": (*rows, 4)}


def one_row() -> Shape:
    """One row, of a layout that a person places."""
    return (1,)


def vector_rows(values: Any, number: Any) -> Shape:
    return rows_of(number if values is None else values)


def part_rows(parts: Any) -> Shape:
    return _common_rows("the parts", parts)


def merge_rows(conditions: Any) -> Shape:
    return _common_rows("the conditions", conditions)


def batch_of_prompts(prompt: Any, batch: Any) -> Shape:
    """One prompt for each picture; a list must have as many."""
    if not isinstance(prompt, str) and prompt and len(prompt) != batch:
        raise ValueError(f"{len(prompt)} prompts do not make a batch of {batch}: give one, or one for each picture")
    return (batch,)


def batch_of_labels(label: Any, batch: Any) -> Shape:
    """One label for each picture; a list must have as many."""
    return constant_shape(label, batch)


def image_and_mask_shape(image: Any, mask: Any) -> Shape:
    """Pictures under masks: the larger batch of both, which must agree or be 1."""
    return (find_common_batch("pictures and masks", image.shape[0], mask.shape[0]), *image.shape[1:])


def guidance_shape(x: Any, label: Any) -> Shape:
    """The shape of the gradient at x, for one label for all samples or one for each."""
    return step_shape(x, label=label)


def step_shape(context: Any, **values: Any) -> Shape:
    """The shape of x at a step, for values that each have one row for all samples or one for each; None is skipped.

    context: what `guidance.context` returns, or x. Raises ``ValueError`` that names the value with another number.
    """
    if context is None:
        return ()
    rows = [SampleCount(value.shape[0], f"the {name}") for name, value in values.items() if getattr(value, "shape", ())]
    if (reason := find_batch_problem(SampleCount(context.shape[0], "x"), rows)) is not None:
        raise ValueError(reason)
    return tuple(context.shape)


def _common_rows(label: str, values: Sequence[Any]) -> Shape:
    return (find_common_batch(label, *(value.shape[0] for value in values)),) if values else (1,)

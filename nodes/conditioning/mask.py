"""Masks, 1 for the pixels to generate and 0 for the pixels to keep, and pictures under masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge, Le

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import first_row
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.conditioning.random_masks import draw_mask
from guidegraph.nodes.derive import node_for, node_from_operation
from guidegraph.nodes.shape_checks import cast_mask, check_compatible
from guidegraph.nodes.types import Image, Mask, Sample

box_mask: Callable[..., Mask] = node_from_operation("mask.box", __name__, name="box_mask")
load_mask: Callable[..., Mask] = node_from_operation("mask.load", __name__, name="load_mask")


@node("mask.random")
def random_mask(
    like: Image,
    index: int = 0,
    *,
    kind: Literal["mixed", "boxes", "strokes"] = "mixed",
    seed: Annotated[int, Ge(0)] = 0,
) -> Mask:
    """Random masks (B, 1, H, W), in the size of `like`, to train inpainting: boxes, and strokes of a thick brush.

    Similar to LaMa's wide masks (Suvorov et al. 2022): 1 to 3 boxes of 15 to 60 % of a side, or 1 to 4 strokes.
    kind: `mixed` uses each for half of the samples. They depend on (seed, index) alone; `index` is the loop's.
    """
    batch, _, height, width = like.shape
    first = first_row(batch)
    masks = [draw_mask(seed, index, first + sample, height, width, kind) for sample in range(batch)]
    return torch.stack([torch.from_numpy(mask) for mask in masks])[:, None].to(like)


@node("mask.boxes", shape=port_shapes.like_rows)
def mask_boxes(box: Tensor, like: Image, *, margin: Annotated[float, Ge(0), Le(1)] = 0.0) -> Mask:
    """Masks (B, 1, H, W), in the size of `like` (B, C, H, W), that are 1 in boxes, for example around objects to hide.

    box (B, N, 4): of `data.scene_128`, `detector.boxes` or `layout.boxes`: the left, top, right and lower edge in units
    of the sides. A pixel belongs to a box if its centre does; a box without width or height has none. margin: how far
    the mask reaches beyond each edge, in the same units. Raises an error for boxes of another shape.
    """
    if box.ndim != 3 or box.shape[2] != 4 or box.shape[0] != like.shape[0]:
        raise ValueError(
            f"expected boxes (B, N, 4), with B = {len(like)} as there are pictures; found {tuple(box.shape)}"
        )
    height, width = like.shape[2:]
    left, top, right, bottom = box.to(like.device, torch.float32).unbind(2)
    is_box = (left < right) & (top < bottom)
    x = (torch.arange(width, device=like.device) + 0.5) / width
    y = (torch.arange(height, device=like.device) + 0.5) / height
    columns = (left[..., None] - margin <= x) & (x < right[..., None] + margin) & is_box[..., None]
    rows = (top[..., None] - margin <= y) & (y < bottom[..., None] + margin)
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True).to(like.dtype)


@node_for("mask.bounds", shape=port_shapes.mask_rows)
def find_bounds(mask: Mask) -> Tensor:
    inside = mask > 0.5
    edges = []
    for axis in (2, 3):
        size = mask.shape[5 - axis]
        line = inside.any(axis).to(torch.float32)  # (B, 1, size), along the other axis
        steps = torch.arange(size, device=mask.device, dtype=torch.float32)
        first = size - (line * (size - steps)).amax(-1)
        last = (line * (steps + 1)).amax(-1)
        edges.append((first / size, last / size))
    (left, right), (top, bottom) = edges
    box = torch.stack([left, top, right, bottom], dim=-1)
    return torch.where(inside.flatten(1).any(1)[:, None, None], box, -torch.ones_like(box)).to(mask.dtype)


@node("mask.apply", shape=port_shapes.image_and_mask_shape)
def apply_mask(image: Image, mask: Mask, *, fill: Annotated[float, Ge(-1), Le(1)] = 0.0) -> Image:
    """Fill pictures (B, 3, H, W) with grey where the mask (B, 1, H, W) is 1; a leading axis of 1 broadcasts.

    fill: the grey value. 0 is mid-grey, as in the training of Stable Diffusion's inpainting; −1 is black, as in latent
    diffusion's. Raises an error for a mask of another size, and for values outside 0 to 1.
    """
    check_compatible("pictures and masks", image, mask, start=2)
    weight = cast_mask(mask, image)
    return image * (1 - weight) + fill * weight


@node("mask.fit", shape=port_shapes.mask_rows)
def fit_mask(mask: Mask, like: Sample) -> Mask:
    """Resize a mask (B, 1, H, W) to the size of `like` (B, C, h, w), such as a latent, by the nearest value.

    The nearest is that above and to the left, as in the training of Stable Diffusion's inpainting.
    """
    return torch.nn.functional.interpolate(mask.to(like), like.shape[2:], mode="nearest")


@node("mask.signed", shape=port_shapes.mask_rows)
def scale_mask(mask: Mask) -> Sample:
    """Map a mask (B, 1, H, W) from [0, 1] to [-1, 1], the range of pictures.

    Latent diffusion's inpainting model was trained with it; Stable Diffusion's takes the mask itself.
    """
    return 2 * mask - 1


@node("mask.blend")
def blend(inside: Sample, outside: Sample, mask: Mask) -> Sample:
    """`image.composite` for samples with any number of channels, such as latents: `inside` where the mask is 1."""
    check_compatible("samples and masks", inside, outside, mask, start=2)
    check_compatible("samples", inside, outside)
    return outside + cast_mask(mask, outside) * (inside - outside)

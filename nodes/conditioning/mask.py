"""Masks, 1 where a picture is to be generated and 0 where it is kept, and pictures under masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge, Le

from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import first_row
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_from_operation
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
    import torch

    from guidegraph.nodes.data.masks import draw_mask

    batch, _, height, width = like.shape
    first = first_row(batch)
    masks = [draw_mask(seed, index, first + sample, height, width, kind) for sample in range(batch)]
    return torch.stack([torch.from_numpy(mask) for mask in masks])[:, None].to(like)


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
    from torch.nn import functional

    return functional.interpolate(mask.to(like), like.shape[2:], mode="nearest")


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
    return outside + cast_mask(mask, outside) * (inside - outside)

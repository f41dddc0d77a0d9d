"""Masks, 1 where something is to be made anew and 0 where a picture stays, and pictures under masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.share import first_row
from guidegraph.nodes import extents
from guidegraph.nodes.shapes import as_share, check_alike
from guidegraph.nodes.types import Image, Mask, Sample
from guidegraph_runtime.host import mask as host

Pixels = Annotated[int, Gt(0)]
Place = Annotated[int, Ge(0)]
Size = Pixels | tuple[Pixels, Pixels]
Level = Annotated[float, Ge(0), Le(1)]


@node("mask.box", runtime=True, shape=extents.mask_shape)
def box_mask(*, size: Size = 64, top: Place = 16, left: Place = 16, height: Pixels = 32, width: Pixels = 32) -> Mask:
    """A mask (1, 1, H, W) that is 1 in a box; size: a side, or [height, width], in pixels like the box.

    top, left: where the box begins. Raises an error for a box that reaches beyond the mask.
    """
    import torch

    mask = host.box(size=size, top=top, left=left, height=height, width=width)
    return torch.from_numpy(mask).to(current_device(), current_dtype())


@node("mask.load", io=True, host=True, runtime=True, shape=extents.mask_shape)
def load_mask(*, path: Path, size: Size | None = None, threshold: Level = 0.5) -> Mask:
    """A picture file as a mask (1, 1, H, W): 1 where it is brighter than the threshold, on a scale from 0 to 1.

    path: the file. size: the wanted side, or [height, width]; the picture is cut to the centre to fit. Transparent
    parts are white, so they are in the mask. See `image.load` for its errors.
    """
    import torch

    mask = host.load(path=path, size=size, threshold=threshold)
    return torch.from_numpy(mask).to(current_device(), current_dtype())


@node("mask.random")
def random_mask(
    like: Image,
    index: int = 0,
    *,
    kind: Literal["mixed", "boxes", "strokes"] = "mixed",
    seed: Annotated[int, Ge(0)] = 0,
) -> Mask:
    """Masks (B, 1, H, W) for the training of inpainting, in the size of `like`: boxes, and strokes of a thick brush.

    In the manner of LaMa's wide masks (Suvorov et al. 2022): 1 to 3 boxes of 15 to 60 % of a side, or 1 to 4 strokes;
    kind mixed: half of the samples each. They depend on (seed, index) alone; `index` is the loop's.
    """
    import torch

    from guidegraph.nodes.data.masks import draw_mask

    batch, _, height, width = like.shape
    first = first_row(batch)
    masks = [draw_mask(seed, index, first + sample, height, width, kind) for sample in range(batch)]
    return torch.stack([torch.from_numpy(mask) for mask in masks])[:, None].to(like)


@node("mask.apply")
def apply_mask(image: Image, mask: Mask, *, fill: Annotated[float, Ge(-1), Le(1)] = 0.0) -> Image:
    """Pictures (B, 3, H, W) with one grey where the mask (B, 1, H, W) is 1; a leading axis of 1 serves them all.

    fill: that grey. 0 is the middle one, as Stable Diffusion's inpainting was trained; −1 is black, as latent
    diffusion's. Raises an error for a mask of another size, and for one whose values are not from 0 to 1.
    """
    check_alike("pictures and masks", image, mask, start=2)
    share = as_share(mask, image)
    return image * (1 - share) + fill * share


@node("image.composite")
def composite(inside: Image, outside: Image, mask: Mask) -> Image:
    """`inside` where the mask is 1 and `outside`, exactly, where it is 0; in between where it is soft.

    Pictures (B, 3, H, W) and masks (B, 1, H, W) of one size; a leading axis of 1 serves the whole batch.
    Raises an error for other sizes, and for a mask whose values are not from 0 to 1.
    """
    check_alike("pictures and masks", inside, outside, mask, start=2)
    return outside + as_share(mask, outside) * (inside - outside)


@node("mask.fit")
def fit_mask(mask: Mask, like: Sample) -> Mask:
    """A mask (B, 1, H, W) at the size of `like` (B, C, h, w), of a latent say: every cell takes the nearest value.

    The nearest is the one above and to the left, as Stable Diffusion's inpainting was trained.
    """
    from torch.nn import functional

    return functional.interpolate(mask.to(like), like.shape[2:], mode="nearest")


@node("mask.signed")
def signed_mask(mask: Mask) -> Sample:
    """A mask (B, 1, H, W) as a channel in [-1, 1], as a picture is: −1 where it is 0 and 1 where it is 1.

    Latent diffusion's model of inpainting was trained with it; Stable Diffusion's takes the mask itself.
    """
    return 2 * mask - 1


@node("mask.blend")
def blend(inside: Sample, outside: Sample, mask: Mask) -> Sample:
    """`image.composite` for samples of any number of channels, of latents say: `inside` where the mask is 1."""
    check_alike("samples and masks", inside, outside, mask, start=2)
    return outside + as_share(mask, outside) * (inside - outside)

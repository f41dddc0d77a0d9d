"""Nodes of pictures: load, convert, resize, blend and embed them, and arrange them on a sheet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Gt, Le

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_for, node_from_operation
from guidegraph.nodes.shape_checks import cast_mask, check_compatible
from guidegraph.nodes.types import Condition, Image, ImageEmbedder, Mask, Sample
from guidegraph_runtime.declare.settings import Size
from guidegraph_runtime.operations import image as host

Filter = Literal["bicubic", "bilinear", "nearest", "area"]


load_image: Callable[..., Image] = node_from_operation("image.load", __name__, name="load_image")


@node_for("image.from_sample")
def image_from_sample(sample: Sample) -> Image:
    channels = host.check_channels(sample.shape[1])
    return sample.clamp(-1, 1).repeat(1, 3 // channels, 1, 1)


@node("image.resize", shape=port_shapes.image_rows)
def resize_image(image: Image, *, size: Size, mode: Filter = "bicubic") -> Image:
    """Resize an image (B, 3, H, W), with antialiasing and clamped to [-1, 1].

    size: the side, or [height, width]. mode: the interpolation filter.
    """
    height, width = (size, size) if isinstance(size, int) else size
    host.check_pixels(height, width)
    if mode in ("bicubic", "bilinear"):
        return resize_antialiased(image, (height, width), mode).clamp(-1, 1)
    kind = "nearest-exact" if mode == "nearest" else mode
    return torch.nn.functional.interpolate(image, (height, width), mode=kind).clamp(-1, 1)


@node("image.scale", shape=port_shapes.image_rows)
def scale_image(image: Image, *, factor: Annotated[float, Gt(0), Le(64)] = 4.0, mode: Filter = "bicubic") -> Image:
    """Scale the sides of an image (B, 3, H, W) by a factor, rounded to whole pixels; mode: as for `image.resize`."""
    height, width = (max(1, round(side * factor)) for side in image.shape[2:])
    return resize_image(image, size=(height, width), mode=mode)


@node_for("image.grid", host=True)
def image_grid(image: Image, *, columns: int | None, gap: int, background: float) -> Image:
    layout = host.Sheet.of(tuple(image.shape), columns, gap)
    sheet = torch.full(layout.shape, background, dtype=image.dtype, device=image.device)
    for (rows, across), picture in zip(layout.windows, image, strict=True):
        sheet[0, :, rows, across] = picture
    return sheet


@node("image.embed", shape=port_shapes.image_rows)
def embed_image(embedder: ImageEmbedder, image: Image) -> Condition:
    """The condition on the content of pictures (B, 3, H, W) in [-1, 1], regardless of position."""
    return embedder(image)


@node("image.composite")
def composite(inside: Image, outside: Image, mask: Mask) -> Image:
    """Blend pictures: `inside` where the mask is 1, exactly `outside` where it is 0, and a mixture between.

    Pictures (B, 3, H, W) and masks (B, 1, H, W) of one size; a leading axis of 1 broadcasts.
    Raises an error for other sizes, and for a mask with values outside 0 to 1.
    """
    check_compatible("pictures and masks", inside, outside, mask, start=2)
    return outside + cast_mask(mask, outside) * (inside - outside)


def resize_antialiased(x: Image, size: tuple[int, int], mode: str = "bilinear") -> Image:
    """Resize x (B, C, H, W) to size (H, W), bilinear or bicubic, in its dtype.

    Half precision is computed in float32: torch has no half-precision kernel for this on a CPU.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.interpolate(wide, size, mode=mode, antialias=True).to(x.dtype)

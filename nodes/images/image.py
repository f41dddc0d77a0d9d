"""Nodes of pictures: load, convert, resize, blend and embed them, and arrange them on a sheet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.nodes import port_shapes
from guidegraph.nodes.shape_checks import cast_mask, check_compatible
from guidegraph.nodes.types import Condition, Image, ImageEmbedder, Mask, Sample
from guidegraph_runtime.operations import image as host
from guidegraph_runtime.pictures.picture_files import Resize

Pixels = Annotated[int, Gt(0)]
Size = Pixels | tuple[Pixels, Pixels]
Filter = Literal["bicubic", "bilinear", "nearest", "area"]


@node("image.load", io=True, host=True, runtime=True, shape=port_shapes.picture_shape)
def load_image(*, path: Path, size: Size | None = None, resize: Resize = "crop") -> Image:
    """Load a picture file as an image (1, 3, H, W) in [-1, 1]; transparency is blended over white.

    path: the file. size: the side, or [height, width]; by default the picture's own. resize: for pictures of another
    aspect ratio: crop to the centre, pad with white, or stretch.
    The camera's rotation is applied, and an animation gives its first frame. 16-bit grey is scaled. Raises an error if
    the file does not exist, is not a picture, or has floating-point pixels, whose range is unknown.
    """
    import torch

    return torch.from_numpy(host.load(path=path, size=size, resize=resize)).to(current_device(), current_dtype())


@node("image.from_sample", runtime=True)
def image_from_sample(sample: Sample) -> Image:
    """Convert a sample (B, 3, H, W), or a grey one (B, 1, H, W), to an image, with values clamped to [-1, 1].

    Raises an error for any other number of channels: a latent must be decoded first.
    """
    channels = sample.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a picture has 3 channels or 1, this sample {channels}: autoencoder.decode decodes a latent")
    return sample.clamp(-1, 1).repeat(1, 3 // channels, 1, 1)


@node("image.resize", shape=port_shapes.image_rows)
def resize_image(image: Image, *, size: Size, mode: Filter = "bicubic") -> Image:
    """Resize an image (B, 3, H, W), with antialiasing and clamped to [-1, 1].

    size: the side, or [height, width]. mode: the interpolation filter.
    """
    from torch.nn import functional

    from guidegraph.nodes.images.resize import resize_antialiased

    height, width = (size, size) if isinstance(size, int) else size
    host.check_pixels(height, width)
    if mode in ("bicubic", "bilinear"):
        return resize_antialiased(image, (height, width), mode).clamp(-1, 1)
    kind = "nearest-exact" if mode == "nearest" else mode
    return functional.interpolate(image, (height, width), mode=kind).clamp(-1, 1)


@node("image.scale", shape=port_shapes.image_rows)
def scale_image(image: Image, *, factor: Annotated[float, Gt(0), Le(64)] = 4.0, mode: Filter = "bicubic") -> Image:
    """Scale the sides of an image (B, 3, H, W) by a factor, rounded to whole pixels; mode: as for `image.resize`."""
    height, width = (max(1, round(side * factor)) for side in image.shape[2:])
    return resize_image(image, size=(height, width), mode=mode)


@node("image.grid", host=True, runtime=True)
def image_grid(
    image: Image,
    *,
    columns: Pixels | None = None,
    gap: Annotated[int, Ge(0)] = 2,
    background: Annotated[float, Ge(-1), Le(1)] = 1.0,
) -> Image:
    """Arrange a batch (B, 3, H, W) on one sheet (1, 3, H', W'), row by row, as nearly square as possible.

    columns: pictures in a row. gap: pixels between pictures and around them. background: grey value in [-1, 1].
    """
    import torch

    batch, channels, height, width = image.shape
    across = min(columns or math.ceil(math.sqrt(batch)), batch)
    down = math.ceil(batch / across)
    shape = (1, channels, gap + down * (height + gap), gap + across * (width + gap))
    host.check_pixels(*shape[2:])
    sheet = torch.full(shape, background, dtype=image.dtype, device=image.device)
    for i in range(batch):
        top, left = gap + i // across * (height + gap), gap + i % across * (width + gap)
        sheet[0, :, top : top + height, left : left + width] = image[i]
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

"""The hyper-parameters of a transformer that its tensors show, and the settings of `checkpoint.load` for it.

DiT, PixArt and Stable Diffusion 3 have the same names for their patches, positions and head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import numbers_in_names, strip_prefix
from guidegraph.nodes.checkpoints.filling import check_axes
from guidegraph.nodes.checkpoints.load_options import LoadOptions

PATCHES, POSITIONS, HEAD = "x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight"
UNUSED = ("tokenizer", "scale", "shift", "config", "upsample_heads", "groups")
"""Settings of checkpoint.load that a transformer does not use."""

PREFIX = "model.diffusion_model."
"""Beginning of the names of a transformer in a file with other parts."""

Config = TypeVar("Config")


def refuse_settings(source: str, family: str, options: LoadOptions, used: Collection[str] = ()) -> None:
    """Raise ``ValueError`` for settings that a transformer does not use.

    used: those that other parts of the same file use; `t5` stands for both settings of T5.
    """
    if "t5" not in used:
        options.refuse_t5(source)
    unused = [name for name in UNUSED if name not in used and getattr(options, name) is not None]
    if options.attention != "auto":
        unused.append("attention")
    if unused:
        raise ValueError(f"'{source}' is {family}, which has no use for {', '.join(unused)}: leave these out")


def strip_transformer(
    tensors: Mapping[str, Tensor], mark: str, other_parts: tuple[str, ...], source: str
) -> dict[str, Tensor]:
    """The tensors of a transformer, without the prefix that they have in a file with other parts.

    mark: the name of one of them, which shows whether there is a prefix. other_parts: beginnings of the names of the
    parts that a file may also hold. Raises ``ValueError`` that names the tensors outside known parts.
    """
    if PREFIX + mark not in tensors:
        return dict(tensors)
    unknown = [name for name in tensors if not name.startswith((PREFIX, *other_parts))]
    if unknown:
        raise ValueError(
            f"'{source}' holds {len(unknown)} tensors that no known part has: {', '.join(sorted(unknown)[:4])}. It is "
            "of another architecture: nothing was loaded"
        )
    return strip_prefix(tensors, PREFIX)


def build_config(make: Callable[..., Config], family: str, source: str, **settings: Any) -> Config:
    """Make the config of a transformer of this family. Raises ``ValueError`` that names `source`."""
    try:
        return make(**settings)
    except ValueError as error:
        raise ValueError(f"'{source}' describes no {family} that can be built: {error}") from None


def read_heads(source: str, width: int, options: LoadOptions) -> int | None:
    """The number of heads that the options set for tokens of this width, or None.

    Raises ``ValueError`` if the width is not a multiple of `heads` or `head_channels`.
    """
    for name, number in (("heads", options.heads), ("head_channels", options.head_channels)):
        if number is not None and width % number:
            raise ValueError(
                f"'{source}' has tokens of width {width}, which is not a multiple of {name} = {number}: set heads or "
                "head_channels as it was trained"
            )
    return options.heads if options.head_channels is None else width // options.head_channels


def resolve_heads_and_schedule(
    source: str,
    family: str,
    size: tuple[int, int],
    known_heads: Mapping[tuple[int, int], int],
    schedule: str,
    options: LoadOptions,
) -> tuple[int, str]:
    """Resolve the heads and the schedule of β of a transformer: from the options, else from its known size.

    size: width and depth. known_heads: the heads of known sizes, which were all trained with `schedule`. Raises
    ``ValueError`` that names `source` and the settings for another size if the options do not set both.
    """
    heads = read_heads(source, size[0], options) or known_heads.get(size)
    name: str | None = schedule if size in known_heads else None
    if options.noise_schedule != "auto":
        name = options.noise_schedule
    if heads is None or name is None:
        settings = {"heads or head_channels": heads, "noise_schedule": name}
        unset = [setting for setting, value in settings.items() if value is None]
        raise ValueError(
            f"'{source}' is a {family} of width {size[0]} with {size[1]} blocks, a size that is not known, and its "
            f"tensors do not tell {', '.join(unset)}: set them on checkpoint.load as it was trained"
        )
    return heads, name


def measure_shape(tensors: Mapping[str, Tensor], name: str, axes: int, source: str) -> torch.Size:
    """The shape of a tensor. Raises ``ValueError`` if it is missing or has another number of axes."""
    if name not in tensors:
        raise ValueError(f"'{source}' holds no {name}: it is incomplete, nothing was loaded")
    return check_axes(tensors[name], source, name, axes).shape


def measure_patches(tensors: Mapping[str, Tensor], blocks: str, hidden: str, source: str) -> dict[str, int]:
    """Measure channels, patch, width, depth and hidden width. Raises ``ValueError`` if one is missing or misshapen.

    blocks: the beginning of the names of blocks, before their numbers. hidden: the name of the weight of the first
    layer of a feed-forward.
    """
    width, channels, patch, _ = measure_shape(tensors, PATCHES, 4, source)
    return {
        "in_channels": channels,
        "out_channels": measure_shape(tensors, HEAD, 2, source)[0] // patch**2,
        "patch": patch,
        "width": width,
        "depth": count_blocks(tensors, blocks, source),
        "hidden": measure_shape(tensors, hidden, 2, source)[0],
    }


def count_blocks(tensors: Mapping[str, Tensor], blocks: str, source: str) -> int:
    """Count the blocks whose names begin with `blocks`. Raises ``ValueError`` unless they are numbered 0, 1, 2, …"""
    numbers = numbers_in_names(tensors, rf"{blocks}\.(\d+)\.")
    if len(numbers) != 1 + max(numbers):
        raise ValueError(
            f"'{source}' has {len(numbers)} blocks with numbers up to {max(numbers)}: it is incomplete, nothing was "
            "loaded"
        )
    return len(numbers)


def measure_side(tensors: Mapping[str, Tensor], source: str) -> int:
    """The side of the square of patches with stored positions. Raises ``ValueError`` if they are no square."""
    positions = measure_shape(tensors, POSITIONS, 3, source)[1]
    side = math.isqrt(positions)
    if side**2 != positions:
        raise ValueError(f"'{source}' does not fit: {POSITIONS} holds {positions} positions, which are no square")
    return side

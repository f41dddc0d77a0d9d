"""Positions of the patches of a picture: sines and cosines, a table, and rotations of queries and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from guidegraph.nodes.shape_checks import has_values, is_transformed

Size = tuple[int, int]
"""Rows and columns of patches: (h, w)."""

COMPLEX_DEVICES = ("cpu", "cuda")
"""Devices where turning pairs of values as complex numbers is the fastest."""


def sincos_positions(width: int, size: Size, grid: float, device: torch.device) -> Tensor:
    """Sines and cosines (h · w, width) float32 of the patches' columns, then of their rows, row by row.

    Positions are scaled to 0 … grid, so that a network that was trained on grid × grid patches sees its own range at
    any size. Peebles & Xie 2023, section 3.2; the frequencies are 10000^(−4i / width).
    """
    frequencies = _frequencies(width // 4, device)

    def encode(count: int) -> Tensor:
        index = torch.arange(count, dtype=torch.float32, device=device)
        scaled = index * grid / (index[-1:] + 1)
        angles = scaled[:, None] * frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = (encode(count) for count in size)
    across = columns[None].expand(size[0], -1, -1)
    down = rows[:, None].expand(-1, size[1], -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


def crop_table(table: Tensor, side: int, size: Size) -> Tensor:
    """The middle (1, h · w, D) of a table of positions (1, side², D) (Esser et al. 2024, section 5.3.2).

    The table is read by computed places, so that an exported graph takes other sizes. A size beyond the table is out of
    its range.
    """

    def find_middle(count: int) -> Tensor:
        index = torch.arange(count, device=table.device)
        first = torch.div(side - 1 - index[-1:], 2, rounding_mode="floor")
        return index + torch.where(first < 0, side**2, first)

    rows, columns = (find_middle(count) for count in size)
    return table[:, (side * rows[:, None] + columns).flatten()]


def rotary_angles(width: int, size: Size, device: torch.device) -> Tensor:
    """Angles (h · w, width / 2) float32 of the patches for `rotate`: half of them turn by row, half by column.

    width: of an attention head. Su et al. 2021 (arXiv:2104.09864), on two axes.
    """
    frequencies = _frequencies(width // 4, device)
    rows, columns = (torch.arange(count, dtype=torch.float32, device=device)[:, None] * frequencies for count in size)
    down = rows[:, None].expand(-1, size[1], -1)
    across = columns[None].expand(size[0], -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, heads, N, D) with the pairs of values i and i + D/2 of position n turned by angles (N, D/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _frequencies(count: int, device: torch.device) -> Tensor:
    """10000^(−i / count), float32 (count)."""
    steps = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10_000.0) / count * steps)


def check_axis_widths(network: str, axes: Sequence[int], width: int, heads: int) -> None:
    """Raise ``ValueError`` that names the network unless `axes` are three even widths that add up to a head's."""
    head, remainder = divmod(width, heads)
    if remainder or len(axes) != 3 or sum(axes) != head or any(axis % 2 or axis < 1 for axis in axes):
        raise ValueError(
            f"{network} has three even axes that make the width of a head; found {tuple(axes)} for a width of {width} "
            f"with {heads} heads"
        )


def axis_angles(places: Tensor, widths: Sequence[int], base: float) -> Tensor:
    """Angles (…, N, Σ widths / 2) float32 for `rotate_pairs`, of places (…, N, A) on A axes.

    widths: the values of an attention head that an axis turns, in the order of the axes, at the frequencies
    base^(−2i / width). Su et al. 2021 (arXiv:2104.09864), on several axes, as in Flux.
    """
    parts = []
    for axis, width in enumerate(widths):
        steps = torch.arange(0, width, 2, dtype=torch.float32, device=places.device)
        parts.append(places[..., axis, None].float() * torch.exp(-math.log(base) / width * steps))
    return torch.cat(parts, dim=-1)


def patch_places(size: Size, device: torch.device) -> Tensor:
    """Places (h · w, 3) float32 of the patches of a picture: 0, the row and the column, row by row."""
    rows, columns = (torch.arange(count, dtype=torch.float32, device=device) for count in size)
    down, across = rows[:, None].expand(-1, size[1]), columns[None].expand(size[0], -1)
    return torch.stack([torch.zeros_like(down + across), down, across], dim=2).flatten(0, 1)


def turns_of(angles: Tensor) -> Tensor:
    """Turns for `rotate_pairs` by angles (N, D/2), or (B, 1, N, D/2) with each sample's own.

    e^{i angle}, complex; or its two parts (…, N, D/2, 2) where calls are recorded, since ONNX lacks complex numbers.
    """
    parts = torch.stack([angles.cos(), angles.sin()], dim=-1)
    is_plain = angles.device.type in COMPLEX_DEVICES and has_values(angles) and not is_transformed()
    return torch.view_as_complex(parts) if is_plain else parts


def rotate_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """x (B, heads, N, D) with the pairs of values 2i and 2i + 1 of position n turned, in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if turns.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    else:
        (first, second), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)

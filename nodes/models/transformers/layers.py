"""Layers of DiT, MMDiT and PixArt; their parameters have the names of the released files.

Token sequences are (B, N, C), the patches of a picture row by row. Peebles & Xie 2023 (arXiv:2212.09748); Esser et al.
2024 (arXiv:2403.03206).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.embeddings import timestep_embedding
from guidegraph.nodes.models.networks.hooks import Attend, AttentionLayer
from guidegraph.nodes.shape_checks import has_values, is_transformed

NORM_EPS = 1e-6
WAVES = 256
"""Width of the sinusoidal embedding of t."""


class VectorMLP(nn.Module):
    """Linear, SiLU, linear: a vector (B, D) as an embedding (B, C)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.mlp.parameters()).dtype

    def forward(self, vector: Tensor) -> Tensor:
        embedding: Tensor = self.mlp(vector)
        return embedding


class TimestepMLP(VectorMLP):
    """The embedding (B, C) of times (B) on the schedule's axis."""

    def __init__(self, width: int, frequency_shift: int = 0) -> None:
        super().__init__(WAVES, width)
        self.frequency_shift = frequency_shift

    def forward(self, t: Tensor) -> Tensor:
        waves = timestep_embedding(t, WAVES, frequency_shift=self.frequency_shift)
        return super().forward(waves.to(self.dtype))


class PatchEmbedding(nn.Module):
    """A picture (B, C, H, W) as tokens (B, N, width): one for each patch × patch pixels."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens.contiguous()  # sums keep the layout of their first term, and linear layers copy any other


def normalise_rms(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) of x (…, D) times weight (D), computed in float32."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight.to(x.dtype)  # in mixed precision, the weight is wider


class HeadNorm(nn.Module):
    """RMSNorm of tokens, or of each head's queries or keys (…, D) (Esser et al. 2024, section 5.3.2)."""

    def __init__(self, width: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalise_rms(x, self.weight, self.eps)


class TokenAttention(AttentionLayer):
    """Multi-head self-attention over tokens (B, N, C); with `norm`, queries and keys are normalised by head.

    Without `out` it only projects, for attention whose result is not used. Raises ``ValueError`` if the width is not a
    multiple of the heads.
    """

    def __init__(self, width: int, heads: int, *, norm: bool = False, out: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads: make it a multiple of 'heads'")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.ln_q = HeadNorm(width // heads) if norm else nn.Identity()
        self.ln_k = HeadNorm(width // heads) if norm else nn.Identity()
        if out:
            self.proj = nn.Linear(width, width)

    def project(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The query, key and value (B, heads, N, D) of tokens (B, N, C); angles (N, D/2) turn query and key."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)
        )
        query, key = self.ln_q(query), self.ln_k(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return query, key, value

    def merge(self, attended: Tensor) -> Tensor:
        """Attended values (B, heads, N, D) as tokens (B, N, C)."""
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, attend: Attend = attention, angles: Tensor | None = None) -> Tensor:
        return self.merge(attend(*self.project(x, angles), None))


class TokenMLP(nn.Module):
    """Linear, GELU (its tanh form), linear over tokens (B, N, C), or from tokens of another width, `inputs`."""

    def __init__(self, width: int, hidden: int, inputs: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs or width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class PatchHead(nn.Module):
    """Tokens (B, N, C) as a picture (B, channels, h · patch, w · patch), after an adaptive norm."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(width, patch * patch * channels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, h: Tensor, embedding: Tensor, size: Sequence[int]) -> Tensor:
        shift, scale = chunk_modulation(self.adaLN_modulation, embedding, 2)
        return patches_to_picture(self.linear(modulate(h, shift, scale)), self.patch, size)


def patches_to_picture(patches: Tensor, patch: int, size: Sequence[int]) -> Tensor:
    """Patches (B, h · w, patch · patch · C) of a map of size (h, w) as a picture (B, C, h · patch, w · patch)."""
    grid = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (size[0], size[1]))
    picture: Tensor = grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # from (B, C, h, p, w, p)
    return picture


def modulation(width: int, parts: int) -> nn.Sequential:
    """Build the layers that make an embedding (B, C) into `parts` shifts, scales and gates."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def chunk_modulation(layers: nn.Sequential, embedding: Tensor, parts: int) -> tuple[Tensor, ...]:
    """The shifts, scales and gates (B, 1, C) of an embedding (B, C)."""
    output: Tensor = layers(embedding)
    return output[:, None].chunk(parts, dim=2)


def modulate(h: Tensor, shift: Tensor, scale: Tensor, eps: float = NORM_EPS) -> Tensor:
    """(1 + scale) · LayerNorm(h) + shift, for tokens (B, N, C) (Peebles & Xie 2023, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=eps), 1 + scale)


def initialise(network: nn.Module) -> None:
    """Give a network its weights before training, as in Peebles & Xie 2023, section 3.2 (adaLN-Zero).

    Linear layers are Xavier-uniform and embeddings of t and of vectors normal. Modulations and the head are zero, so
    that every block starts as the identity.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        if isinstance(module, VectorMLP):
            for layer in module.mlp.children():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
        elif name.endswith("adaLN_modulation.1") and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
        elif isinstance(module, PatchHead):
            nn.init.zeros_(module.linear.weight)


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

"""Layers of DiT, MMDiT and PixArt; their parameters have the names of the released files.

Token sequences are (B, N, C), the patches of a picture row by row. Peebles & Xie 2023 (arXiv:2212.09748); Esser et al.
2024 (arXiv:2403.03206).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import Attend, AttentionLayer
from guidegraph.nodes.models.released.layers import timestep_embedding
from guidegraph.nodes.models.transformers.positions import rotate

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

"""The vector quantiser: maps each vector of a latent to the nearest code of a codebook (van den Oord et al. 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from guidegraph.graph.training.precision import without_autocast
from guidegraph.graph.training.ranks import current_rank, sum_over_ranks

DEAD = 0.1
"""A code is dead if, on average, fewer vectors of a batch than this map to it."""


class Quantised(NamedTuple):
    """The quantiser's output for vectors z_e (B, D, h, w); e is the nearest code of each.

    z: e, with the gradient of z_e (the straight-through estimator). codes: (B, h, w), the index of e, int64. codebook:
    ‖sg(z_e) − e‖², which trains only the codes. commitment: ‖z_e − sg(e)‖², which trains only the encoder and is
    multiplied by β. Both are means over elements.
    """

    z: Tensor
    codes: Tensor
    codebook: Tensor
    commitment: Tensor


class VectorQuantiser(nn.Module):
    """A codebook of `codes` vectors of width `width`.

    decay: None trains the codes by the gradient of the codebook term (van den Oord et al. 2017, eq. 3). With a number
    they are moving averages of the vectors that map to them (there, appendix A), kept in buffers and updated by each
    `forward` in training mode; a dead code is set to a random vector of the batch. The update is not undone if the
    step is interrupted after it, in a loop inside a training body. In distributed training the vectors of all ranks
    count as one batch.
    """

    codebook: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, decay: float | None = None) -> None:
        super().__init__()
        self.decay = decay
        start = torch.empty(codes, width).uniform_(-1, 1)
        if decay is None:
            self.codebook = nn.Parameter(start)
            return
        self.register_buffer("codebook", start)
        self.register_buffer("count", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, width))

    def nearest(self, z: Tensor) -> Tensor:
        """The index (B, h, w) of the code nearest to each vector of z (B, D, h, w), in float32 at least."""
        with torch.no_grad(), without_autocast(z.device):
            wide = torch.promote_types(z.dtype, torch.float32)
            vectors, codes = flatten_vectors(z).to(wide), self.codebook.to(wide)
            distance = codes.square().sum(1) - 2 * vectors @ codes.T  # without ‖z‖², which is the same for all codes
            return distance.argmin(1).reshape(z.shape[0], *z.shape[2:])

    def lookup(self, index: Tensor) -> Tensor:
        """The codes (B, D, h, w) of indices (B, h, w)."""
        return self.codebook[index].permute(0, 3, 1, 2)

    def quantise(self, z: Tensor) -> Tensor:
        """The nearest codes (B, D, h, w) of vectors z (B, D, h, w). Idempotent: a code maps to itself."""
        return self.lookup(self.nearest(z)).to(z.dtype)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise z (B, D, h, w) for training."""
        z = z.float()
        index = self.nearest(z)
        e = self.lookup(index).float()
        codebook, commitment = (z.detach() - e).square().mean(), (z - e.detach()).square().mean()
        quantised = Quantised(z + (e - z).detach(), index, codebook, commitment)
        if self.training and self.decay is not None:
            self.follow(z.detach(), index)
        return quantised

    @torch.no_grad()
    def follow(self, z: Tensor, index: Tensor) -> None:
        """One step of the moving averages: N ← γN + (1−γ)n, m ← γm + (1−γ)Σz, e = m/N, with γ the decay.

        n and Σz are over the batch of all ranks.
        """
        assert self.decay is not None
        vectors, chosen = flatten_vectors(z).to(self.total.dtype), index.flatten()
        counts = torch.bincount(chosen, minlength=len(self.count)).to(self.count.dtype)
        sums = torch.zeros_like(self.total).index_add_(0, chosen, vectors)
        counts, sums, fresh = sum_over_ranks([counts, sums, draw_vectors(vectors, len(self.count))])
        self.count.lerp_(counts, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.count < DEAD
        self.count.masked_fill_(dead, 1.0)
        self.total.copy_(torch.where(dead[:, None], fresh, self.total))
        self.codebook.copy_(self.total / self.count[:, None])


def draw_vectors(vectors: Tensor, count: int) -> Tensor:
    """Draw `count` random vectors (count, D) of the batch of all ranks; zeros for vectors on other ranks.

    All ranks draw the same indices from torch's generator, so the sum over ranks has each vector.
    """
    rank, size = current_rank(), len(vectors)
    picked = torch.randint(size * rank.count, (count,), device="cpu").to(vectors.device) - rank.index * size
    is_local = (picked >= 0) & (picked < size)
    return vectors[picked.clamp(0, size - 1)] * is_local[:, None]


def flatten_vectors(z: Tensor) -> Tensor:
    """Reshape (B, D, h, w) to (B · h · w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


class Usage(NamedTuple):
    """share: fraction of codes in use, in [0, 1]. perplexity: exp of the entropy of their frequencies, 1 … codes."""

    share: Tensor
    perplexity: Tensor


def measure_usage(index: Tensor, codes: int) -> Usage:
    """Measure how evenly indices (any shape, int64, below `codes`) use the codes; both outputs are scalars ()."""
    frequency = torch.bincount(index.flatten(), minlength=codes).float()
    p = frequency / frequency.sum()
    return Usage((frequency > 0).float().mean(), torch.special.entr(p).sum().exp())

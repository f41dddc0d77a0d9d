"""The hyper-parameters of the released U-Nets: guided-diffusion, latent diffusion, Stable Diffusion and SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guidegraph.nodes.types import PredictionKind

PoolKind: TypeAlias = Literal["attention", "adaptive", "spatial", "spatial_v2"]


@dataclass(frozen=True)
class UNetShape:
    """The shape of a ReleasedUNet. What is given for each level is given finest first.

    in_channels: those of x; spatial_channels: those concatenated to x (a low-resolution picture, a mask).
    out_channels: those of x, or twice as many where the second half is a learned variance.
    channels: width of the sinusoidal embedding of t; four times that is the width of the embedding of t and vector.
    widths: channels of each level; blocks: residual blocks of each level on the way down (one more on the way up).
    depths: of each level, 0 without attention; with attention 1, or the transformer blocks in each of its attentions.
    middle_depth: the same for the middle, after the coarsest level. heads: of each level; the middle has the last's.
    context_dim: width of the tokens for cross-attention; None where attention is among pixels alone.
    linear_projections: into and out of a spatial transformer, instead of 1 × 1 convolutions.
    new_attention_order: q, k and v are split before the heads, as in guided-diffusion's `use_new_attention_order`.
    scale_shift: AdaGN, (1 + y_s) · GroupNorm(h) + y_b; otherwise the embedding is added before the second norm.
    resblock_updown: residual blocks that pool and repeat pixels change the resolution, instead of convolutions.
    classes: labels that the model was trained with; their embedding is added to that of t as the condition's vector.
    adm_channels: width of a vector that two linear layers of the network itself bring to the embedding of t.
    groups, norm_eps: of every GroupNorm but those of spatial transformers, whose eps is 1e-6.
    sine_first, frequency_shift: of the embedding of t: sines before cosines; frequencies 10000^(−i / (half − shift)).
    asymmetric_downsample: a strided convolution pads on the right and below alone.
    upsample_heads: heads of each level on the way up, where they differ from those on the way down; empty otherwise.
    resample_convolution: a convolution changes the resolution; False means 2 × 2 means and repeated pixels, with no
    weights (`conv_resample`). Without effect where residual blocks change it.
    kind: what the network gives: ε, x0 or v.
    """

    in_channels: int
    out_channels: int
    channels: int
    widths: tuple[int, ...]
    blocks: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    middle_depth: int = 1
    spatial_channels: int = 0
    context_dim: int | None = None
    linear_projections: bool = False
    new_attention_order: bool = False
    scale_shift: bool = False
    resblock_updown: bool = False
    classes: int | None = None
    adm_channels: int | None = None
    groups: int = 32
    norm_eps: float = 1e-5
    sine_first: bool = False
    frequency_shift: int = 0
    asymmetric_downsample: bool = False
    kind: PredictionKind = "eps"
    upsample_heads: tuple[int, ...] = ()
    resample_convolution: bool = True

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "heads", "upsample_heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.widths) == len(self.depths) == len(self.heads) > 0:
            raise ValueError(
                f"expected widths, depths and heads of every level; found {len(self.widths)}, {len(self.depths)} and "
                f"{len(self.heads)}"
            )
        if len(self.upsample_heads) not in (0, len(self.widths)):
            raise ValueError(f"expected upsample_heads of every level or none; found {len(self.upsample_heads)}")
        up = self.heads_up
        for width, depth, heads in zip(
            (*self.widths, self.widths[-1], *self.widths),
            (*self.depths, self.middle_depth, *self.depths),
            (*self.heads, self.heads[-1], *up),
            strict=True,
        ):
            if depth and (heads < 1 or width % heads):
                raise ValueError(f"{heads} heads do not share {width} channels: set the number of heads or their width")
        for width in self.widths:
            if width % self.groups:
                raise ValueError(f"{self.groups} groups do not share {width} channels")
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"expected an output of the {self.in_channels} channels of x, or twice as many for a learned variance; "
                f"found {self.out_channels}"
            )

    @property
    def heads_up(self) -> tuple[int, ...]:
        """Heads of each level on the way up, finest first."""
        return self.upsample_heads or self.heads

    @property
    def embedding(self) -> int:
        """Width of the embedding that every residual block gets."""
        return 4 * self.channels

    @property
    def vector_dim(self) -> int | None:
        """Width of the condition's vector, or None where there is none."""
        return self.embedding if self.classes is not None else self.adm_channels

    @property
    def learned_variance(self) -> bool:
        return self.out_channels == 2 * self.in_channels

    @property
    def factor(self) -> int:
        """What the sides of x are multiples of."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class ClassifierShape:
    """The shape of a ReleasedClassifier of samples (B, in_channels, H, W): a U-Net's encoder half, and a pool.

    pool: guided-diffusion's `classifier_pool`. attention: one position attends to all; the only pool that fixes the
    size of x. adaptive: the mean of the coarsest features. spatial, spatial_v2: a network of two layers, of `hidden`
    features between them, on the means of all levels' features.
    size: the side of x, None for any multiple of the trunk's factor. pool_heads: of the attention that pools.
    out_channels of the trunk means nothing here.
    """

    trunk: UNetShape
    classes: int
    size: int | None = None
    pool: PoolKind = "attention"
    pool_heads: int = 1
    hidden: int = 2048

    @property
    def cells(self) -> int:
        """How many positions the coarsest level has, where the size is fixed."""
        assert self.size is not None
        return (self.size // self.trunk.factor) ** 2


def heads_of(widths: Sequence[int], *, heads: int | None = None, head_channels: int | None = None) -> tuple[int, ...]:
    """Heads of each level: `heads` everywhere, or as many as have `head_channels` each (at least one)."""
    if (heads is None) == (head_channels is None):
        raise ValueError("give either heads or head_channels")
    if heads is not None:
        return (heads,) * len(widths)
    assert head_channels is not None
    return tuple(max(width // head_channels, 1) for width in widths)

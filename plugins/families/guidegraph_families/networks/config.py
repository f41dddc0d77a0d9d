"""The hyper-parameters of the released U-Nets: guided-diffusion, latent diffusion, Stable Diffusion and SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guidegraph.nodes.types import PredictionKind

PoolKind: TypeAlias = Literal["attention", "adaptive", "spatial", "spatial_v2"]


@dataclass(frozen=True)
class UNetShape:
    """Hyper-parameters of a ReleasedUNet. Values by level come finest first.

    in_channels: of x; spatial_channels: those concatenated to x (a low-resolution picture, a mask).
    out_channels: as x has, or twice as many if the second half is a learned variance.
    channels: width of the sinusoidal embedding of t; four times that is the width of the embedding of t and vector.
    widths: channels of each level; blocks: residual blocks of each level on the way down (one more on the way up).
    depths: of each level, 0 without attention; otherwise 1, or the number of transformer blocks of its attention.
    middle_depth: the same for the middle, after the coarsest level. heads: of each level; the middle has the last's.
    context_dim: width of the tokens for cross-attention; None if attention is among pixels only.
    linear_projections: spatial transformers project by linear layers instead of 1 × 1 convolutions.
    new_attention_order: q, k and v are split before the heads, as in guided-diffusion's `use_new_attention_order`.
    scale_shift: AdaGN, (1 + y_s) · GroupNorm(h) + y_b; otherwise the embedding is added before the second norm.
    resblock_updown: residual blocks that pool and repeat pixels change the resolution, instead of convolutions.
    classes: number of class labels; their embedding comes as the condition's vector and is added to the embedding of t.
    adm_channels: width of a vector that two linear layers of the network map to the embedding of t.
    groups, norm_eps: of every GroupNorm, except that spatial transformers have eps 1e-6.
    sine_first, frequency_shift: of the embedding of t: sines before cosines; frequencies 10000^(−i / (half − shift)).
    asymmetric_downsample: a strided convolution pads only at the right and the bottom.
    upsample_heads: heads of each level on the way up; empty if they are the same as on the way down.
    resample_convolution: a convolution changes the resolution; False means 2 × 2 means and repeated pixels, with no
    weights (`conv_resample`). Ignored if residual blocks change it.
    kind: the prediction of the network: ε, x0 or v.
    size_width: width of the embedding of each of the six sizes at the end of SDXL's vector; None for other networks.
    pixels: pixels of the picture to a side of a cell of x, which convert the size of x to the size of SDXL's picture.
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
    size_width: int | None = None
    pixels: int = 8

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
        """Width of the condition's vector, or None without one."""
        return self.embedding if self.classes is not None else self.adm_channels

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class ClassifierShape:
    """Hyper-parameters of a ReleasedClassifier of samples (B, in_channels, H, W): a U-Net's encoder half, and a pool.

    pool: guided-diffusion's `classifier_pool`. attention: one position attends to all; the only pool that fixes the
    size of x. adaptive: the mean of the coarsest features. spatial, spatial_v2: a network of two layers, of `hidden`
    features between them, on the means of all levels' features.
    size: the side of x, None for any multiple of the trunk's factor. pool_heads: of the attention that pools.
    out_channels of the trunk is unused.
    """

    trunk: UNetShape
    classes: int
    size: int | None = None
    pool: PoolKind = "attention"
    pool_heads: int = 1
    hidden: int = 2048

    @property
    def cells(self) -> int:
        """Number of positions at the coarsest level, for a fixed size."""
        assert self.size is not None
        return (self.size // self.trunk.factor) ** 2


def count_heads(
    widths: Sequence[int], *, heads: int | None = None, head_channels: int | None = None
) -> tuple[int, ...]:
    """Number of heads of each level: `heads`, or the width divided by `head_channels` (at least one)."""
    if (heads is None) == (head_channels is None):
        raise ValueError("give either heads or head_channels")
    if heads is not None:
        return (heads,) * len(widths)
    assert head_channels is not None
    return tuple(max(width // head_channels, 1) for width in widths)

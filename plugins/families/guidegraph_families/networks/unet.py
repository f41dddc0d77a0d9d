"""The U-Net of the released checkpoints in its canonical layout, and the classifier made of its encoder half."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guidegraph.nodes.models.networks.embeddings import timestep_embedding
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Hooks, SiteBlock, number_sites
from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d
from guidegraph.nodes.models.networks.shells import run_shells
from guidegraph.nodes.models.own.layers import GroupNorm, Upsample
from guidegraph.nodes.shape_checks import check_channels, check_sides
from guidegraph_families.diffusers.unet import to_diffusers, unet_layout
from guidegraph_families.networks.config import ClassifierShape, UNetShape
from guidegraph_families.networks.layers import (
    AttentionBlock,
    ReleasedAttentionPool,
    ReleasedDownsample,
    ReleasedResidualBlock,
    ReleasedSpatialTransformer,
)


class TimestepEmbedSequential(nn.ModuleList):
    """Layers in sequence; passes the embedding, the tokens and the hooks to those that take them."""

    def forward(
        self, h: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None, hooks: Hooks = NO_HOOKS
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ReleasedResidualBlock):
                h = layer(h, embedding)
            elif isinstance(layer, ReleasedSpatialTransformer):
                h = layer(h, tokens, mask, hooks)
            elif isinstance(layer, AttentionBlock):
                h = layer(h, hooks)
            else:
                h = layer(h)
        return h


def attention(width: int, heads: int, depth: int, shape: UNetShape) -> nn.Module:
    """Build the attention of a level: among pixels only, or a spatial transformer if there are tokens."""
    if shape.context_dim is None:
        return AttentionBlock(width, heads, shape)
    return ReleasedSpatialTransformer(width, heads, depth, shape.context_dim, shape.linear_projections, shape.groups)


class ReleasedEncoder(nn.Module):
    """The encoder half with the middle, shared by the U-Net and the classifier of noisy samples."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.time_embed = nn.Sequential(
            nn.Linear(shape.channels, shape.embedding), nn.SiLU(), nn.Linear(shape.embedding, shape.embedding)
        )
        width = shape.widths[0]
        stem = PackedConv2d(shape.in_channels + shape.spatial_channels, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential([stem])])
        skips = [width]
        for level, out in enumerate(shape.widths):
            for _ in range(shape.blocks):
                self.input_blocks.append(self.block(width, out, level, shape.heads))
                width = out
                skips.append(width)
            if level < len(shape.widths) - 1:
                self.input_blocks.append(TimestepEmbedSequential([self.downsample(width)]))
                skips.append(width)
        middle: nn.Module = nn.Identity()
        if shape.middle_depth:
            middle = attention(width, shape.heads[-1], shape.middle_depth, shape)
        self.middle_block = TimestepEmbedSequential(
            [ReleasedResidualBlock(width, width, shape), middle, ReleasedResidualBlock(width, width, shape)]
        )
        self.skips = tuple(skips)

    def block(self, width: int, out: int, level: int, heads: tuple[int, ...]) -> TimestepEmbedSequential:
        """Build a residual block, with attention if the level has it; heads: of each level."""
        shape = self.shape
        layers: list[nn.Module] = [ReleasedResidualBlock(width, out, shape)]
        if shape.depths[level]:
            layers.append(attention(out, heads[level], shape.depths[level], shape))
        return TimestepEmbedSequential(layers)

    def downsample(self, width: int) -> nn.Module:
        if self.shape.resblock_updown:
            return ReleasedResidualBlock(width, width, self.shape, "down")
        if not self.shape.resample_convolution:
            return nn.AvgPool2d(2)
        return ReleasedDownsample(width, self.shape.asymmetric_downsample)

    def upsample(self, width: int) -> nn.Module:
        if self.shape.resblock_updown:
            return ReleasedResidualBlock(width, width, self.shape, "up")
        if not self.shape.resample_convolution:
            return nn.Upsample(scale_factor=2.0, mode="nearest")
        return Upsample(width)

    def embed(self, t: Tensor) -> Tensor:
        """The embedding (B, 4 · channels) of times (B)."""
        waves = timestep_embedding(
            t, self.shape.channels, sine_first=self.shape.sine_first, frequency_shift=self.shape.frequency_shift
        )
        embedding: Tensor = self.time_embed(waves.to(self.dtype))
        return embedding

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        weight = self.time_embed[0].weight
        assert isinstance(weight, Tensor)
        return weight.dtype

    def encode(
        self,
        h: Tensor,
        embedding: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> tuple[Tensor, list[Tensor]]:
        """The features (B, C, h, w) of the coarsest level, and the skip features, finest first."""
        skips = []
        for index, stage in enumerate(self.input_blocks):
            h = hooks.feature("down", index, stage(h, embedding, tokens, mask, hooks))
            skips.append(h)
        h = self.middle_block(h, embedding, tokens, mask, hooks)
        return hooks.feature("middle", 0, h), skips


class ReleasedUNet(ReleasedEncoder):
    """The denoising U-Net of guided-diffusion, latent diffusion, Stable Diffusion and SDXL.

    It does not include the embedding of class labels, which comes as the condition's vector.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__(shape)
        self.label_emb: nn.Module | None = None
        if shape.adm_channels is not None:
            self.label_emb = nn.Sequential(
                nn.Sequential(
                    nn.Linear(shape.adm_channels, shape.embedding),
                    nn.SiLU(),
                    nn.Linear(shape.embedding, shape.embedding),
                )
            )
        skips, width = list(self.skips), shape.widths[-1]
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(shape.widths))):
            for index in range(shape.blocks + 1):
                stage = self.block(width + skips.pop(), shape.widths[level], level, shape.heads_up)
                width = shape.widths[level]
                if level and index == shape.blocks:
                    stage.append(self.upsample(width))
                self.output_blocks.append(stage)
        self.out = nn.Sequential(
            GroupNorm(shape.groups, width, shape.norm_eps),
            nn.SiLU(),
            PackedConv2d(width, shape.out_channels, 3, padding=1),
        )
        blocks: list[SiteBlock] = [("down", [stage]) for stage in self.input_blocks]
        blocks.append(("middle", [self.middle_block]))
        self.sites = number_sites([*blocks, *(("up", [stage]) for stage in self.output_blocks)])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """Output (B, out_channels, H, W) in the network's dtype for x (B, in_channels, H, W) at times t (B).

        vector (B, vector_dim); tokens (B, L, context_dim) with mask (B, L), true where a token counts; spatial
        (B, spatial_channels, H, W), concatenated to x along the channels.
        """
        embedding = self.embed(t)
        if vector is not None:
            embedding = embedding + (vector if self.label_emb is None else self.label_emb(vector))
        h = x if spatial is None else torch.cat([x, spatial], dim=1)
        context = (embedding, tokens, mask, hooks)
        h = run_shells(
            h,
            len(self.output_blocks),
            lambda index, h: self.input_blocks[index](h, *context),
            lambda h: self.middle_block(h, *context),
            lambda index, h: self.output_blocks[index](h, *context),
            hooks,
        )
        out: Tensor = self.out(h)
        return out

    def name_in_files(self, canonical: str) -> str:
        """The name in diffusers of a layer, for LoRA files."""
        return to_diffusers(canonical, unet_layout(self.shape))


class ReleasedClassifier(ReleasedEncoder):
    """A `Classifier`: guided-diffusion's log p(y | x_t) up to a constant, at any noise level t."""

    def __init__(self, shape: ClassifierShape) -> None:
        super().__init__(shape.trunk)
        self.classes, self.size = shape.classes, shape.size
        self.pools_every_level = shape.pool in ("spatial", "spatial_v2")
        features = sum(self.skips) + shape.trunk.widths[-1] if self.pools_every_level else shape.trunk.widths[-1]
        self.out = pool_head(shape, features)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes) in x's dtype for x (B, C, H, W) at t (B) on the schedule's axis.

        Raises ``ValueError`` for samples of another size.
        """
        if self.size is None:
            check_channels(x, self.shape.in_channels, "this classifier")
            check_sides(x, self.shape.factor, "this classifier")
        elif x.shape[1:] != (self.shape.in_channels, self.size, self.size):
            raise ValueError(
                f"this classifier takes samples (B, {self.shape.in_channels}, {self.size}, {self.size}); found shape "
                f"{tuple(x.shape)}"
            )
        h, skips = self.encode(x.to(self.dtype), self.embed(t))
        if self.pools_every_level:
            h = torch.cat([features.mean((2, 3)) for features in (*skips, h)], dim=1)
        logits: Tensor = self.out(h)
        return logits.to(x.dtype)


def pool_head(shape: ClassifierShape, features: int) -> nn.Sequential:
    """Build the layers after the encoder, numbered as in the files: features to logits (B, classes).

    They take (B, features, h, w) of the coarsest level, or for the spatial pools (B, features), means of all levels.
    """
    groups, eps = shape.trunk.groups, shape.trunk.norm_eps
    if shape.pool == "spatial":
        return nn.Sequential(nn.Linear(features, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, shape.classes))
    if shape.pool == "spatial_v2":
        return nn.Sequential(
            nn.Linear(features, shape.hidden),
            GroupNorm(groups, shape.hidden, eps),
            nn.SiLU(),
            nn.Linear(shape.hidden, shape.classes),
        )
    normed: list[nn.Module] = [GroupNorm(groups, features, eps), nn.SiLU()]
    if shape.pool == "adaptive":
        return nn.Sequential(*normed, nn.AdaptiveAvgPool2d(1), nn.Conv2d(features, shape.classes, 1), nn.Flatten())
    return nn.Sequential(*normed, ReleasedAttentionPool(features, shape.cells, shape.pool_heads, shape.classes))

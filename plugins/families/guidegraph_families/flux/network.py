"""Flux.1 (Black Forest Labs, 2024): a transformer over packed patches and a text's tokens.

At first picture and text have weights of their own, as in an MMDiT; then they are one sequence. Their paper is about
Kontext, arXiv:2506.15742, section 3; the parameters have the names of the released files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.guidance.hooks import Rule, Site, SiteKind
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Hooks
from guidegraph.nodes.models.transformers.denoiser import TransformerDenoiser
from guidegraph.nodes.models.transformers.layers import axis_angles, check_axis_widths, patch_places, turns_of
from guidegraph.nodes.shape_checks import expand_to_batch
from guidegraph.nodes.types import PredictionKind, Scale
from guidegraph_families.flux.layers import (
    DoubleBlock,
    NumberEmbedder,
    PackedHead,
    SingleBlock,
    VectorEmbedder,
    clip_half,
    pack,
    unpack,
)

SITE_KINDS: tuple[SiteKind, ...] = ("input", "joint", "skip", "feature")
"""The sites of a block."""

PATCH = 2
"""The side of a patch of every release."""

ROTARY_BASE = 10_000.0
GUIDANCE_FACTOR = 1000.0
"""The guidance scale is embedded as times are, on an axis of 0 … 1000."""


@dataclass(frozen=True)
class FluxConfig:
    """Hyper-parameters of a Flux.

    in_channels: of x; spatial_channels: of the spatial condition, concatenated to x (Canny, Depth, Fill).
    patch: side of a patch. width: of a token; depth: blocks with two streams; single_depth: blocks with one; hidden:
    width of the feed-forwards. context_dim: width of the condition's tokens; vector_dim: of its vector. axes: the
    values of a head that turn by the place of a picture, by row and by column. guidance: is told a guidance scale, for
    which it was distilled. kind: the prediction.
    """

    in_channels: int = 16
    spatial_channels: int = 0
    patch: int = 2
    width: int = 3072
    depth: int = 19
    single_depth: int = 38
    heads: int = 24
    hidden: int = 12288
    context_dim: int = 4096
    vector_dim: int = 768
    axes: tuple[int, int, int] = (16, 56, 56)
    guidance: bool = True
    kind: PredictionKind = "flow"

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        check_axis_widths("a Flux", self.axes, self.width, self.heads)

    @property
    def out_channels(self) -> int:
        """As many as x has."""
        return self.in_channels

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch


class Flux(nn.Module):
    """The transformer of Flux.1."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        width, area = config.width, config.patch**2
        self.img_in = nn.Linear(area * (config.in_channels + config.spatial_channels), width)
        self.time_in = NumberEmbedder(width)
        self.vector_in = VectorEmbedder(config.vector_dim, width)
        self.guidance_in = NumberEmbedder(width) if config.guidance else None
        self.txt_in = nn.Linear(config.context_dim, width)
        shape = (width, config.heads, config.hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(*shape) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(*shape) for _ in range(config.single_depth))
        self.final_layer = PackedHead(width, area * config.out_channels)
        blocks = range(config.depth + config.single_depth)
        self.sites = tuple(Site(kind, "block", i) for i in blocks for kind in SITE_KINDS)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        tokens: Tensor,
        vector: Tensor,
        guidance: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """Output (B, C, H, W) for x (B, C, H, W) at times t (B) in 0 … 1000.

        tokens (B, L, D) with mask (B, L), true where a token counts; vector (B, D), the pooled text; guidance (B), the
        scale that a distilled network is told; spatial (B, C′, H, W), concatenated to x along the channels.
        """
        patch, double = self.config.patch, len(self.double_blocks)
        size = (x.shape[2] // patch, x.shape[3] // patch)
        h = self.img_in(pack(x if spatial is None else torch.cat([x, spatial], dim=1), patch))
        text: Tensor = self.txt_in(tokens)
        embedding = self.time_in(t) + self.vector_in(vector)
        if self.guidance_in is not None and guidance is not None:
            embedding = embedding + self.guidance_in(GUIDANCE_FACTOR * guidance)
        places = patch_places(size, x.device)  # those of a text's tokens are zero
        places = torch.cat([places, places.new_zeros(text.shape[1], 3)])
        turns = turns_of(axis_angles(places, self.config.axes, ROTARY_BASE))
        keys = None if mask is None else torch.cat([mask.new_ones(h.shape[:2]), mask], dim=1)
        for index, block in enumerate(self.double_blocks):
            attend = hooks.attend(Site("joint", "block", index), size)
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            change, text_change = block(entered, text, embedding, turns, keys, attend)
            h, text = hooks.block(index, h, change, size), clip_half(hooks.text_block(index, text, text_change))
        for index, block in enumerate(self.single_blocks, double):
            joined = torch.cat([hooks.input_tokens(Site("input", "block", index), h, size), text], dim=1)
            change = block(joined, embedding, turns, keys, hooks.attend(Site("joint", "block", index), size))
            h = clip_half(hooks.block(index, h, change[:, : h.shape[1]], size))
            if index + 1 < len(self.single_blocks) + double:  # nothing uses the text after the last block
                text = clip_half(hooks.text_block(index, text, change[:, h.shape[1] :]))
        return unpack(self.final_layer(h, embedding), size, patch)

    def published_layers(self) -> dict[str, LayerRows]:
        """Its layers by their names in diffusers, for LoRA files."""
        from guidegraph_families.flux.folder import flux_layers

        return flux_layers(self.config)


class FluxDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a Flux; tokens that the mask of a text leaves out do not count.

    guidance: the scale that a distilled network is told, one number or a tensor (1) or (B).
    """

    network: Flux

    def __init__(
        self, network: nn.Module, rules: Mapping[Site, Rule] | None = None, guidance: Scale | None = None
    ) -> None:
        super().__init__(network, rules)
        self.guidance = guidance

    @property
    def config(self) -> FluxConfig:
        return self.network.config

    def with_guidance(self, scale: Scale) -> Self:
        """A denoiser with the same network, told another scale; itself if the network is told none."""
        if not self.config.guidance:
            return self
        copied = self._copy_with(self.hooks.rules)
        copied.guidance = scale
        return copied

    def _copy_with(self, rules: Mapping[Site, Rule]) -> Self:
        copied = super()._copy_with(rules)
        copied.guidance = self.guidance
        return copied

    def extra_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """The guidance scale of each sample. Raises ``ValueError`` if a distilled network is told none."""
        if not self.config.guidance:
            return {}
        if self.guidance is None:
            raise ValueError(
                "this denoiser was distilled from one with guidance and must be told a scale: use "
                "denoiser.predict_distilled, or wire it through denoiser.distilled"
            )
        scale = torch.as_tensor(self.guidance, dtype=torch.float32, device=x.device)
        return {"guidance": expand_to_batch(scale if scale.ndim else scale[None], x.shape[0], "the guidance scale")}

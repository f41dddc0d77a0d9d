"""Nodes that build new transformers to train.

Settings that they share:
seed: of the initial weights. in_channels: channels of the samples. patch: side of a patch; the sides of the samples are
multiples of it. width: of a token. depth: blocks. heads: attention heads. spatial_channels: channels of the condition's
map, or 0. learned_variance: predict a variance too. kind: of the prediction.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.nodes.models.model_nodes import build_untrained
from guidegraph.nodes.types import Denoiser, PredictionKind

Count = Annotated[int, Ge(1)]
FEED_FORWARD = 4
"""Width of the feed-forward of a new transformer, in units of a token's width."""


@node("model.dit")
def new_dit(
    *,
    seed: int = 0,
    in_channels: Count = 4,
    patch: Count = 2,
    width: Count = 256,
    depth: Count = 8,
    heads: Count = 4,
    grid: Count = 16,
    conditional: bool = True,
    spatial_channels: Annotated[int, Ge(0)] = 0,
    learned_variance: bool = False,
    kind: PredictionKind = "v",
) -> Denoiser:
    """An untrained DiT: a transformer over patches, conditioned by adaptive norms (Peebles & Xie 2023, adaLN-Zero).

    grid: patches along a side of the samples of the training; positions at another size are scaled to it.
    conditional: takes the condition's vector, of the tokens' `width` (model.label_embedder's `width`).
    """
    from guidegraph.nodes.models.transformers.denoiser import DiTDenoiser
    from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig

    config = DiTConfig(
        in_channels=in_channels,
        out_channels=2 * in_channels if learned_variance else in_channels,
        spatial_channels=spatial_channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=FEED_FORWARD * width,
        grid=grid,
        conditional=conditional,
        kind=kind,
    )
    return build_untrained(lambda: DiTDenoiser(DiT(config)), seed)


@node("model.mmdit")
def new_mmdit(
    *,
    seed: int = 0,
    in_channels: Count = 4,
    patch: Count = 2,
    width: Count = 256,
    depth: Count = 8,
    heads: Count = 4,
    context_dim: Count = 128,
    vector_dim: Count | None = 128,
    positions: Literal["table", "rotary"] = "table",
    side: Count = 64,
    qk_norm: bool = True,
    spatial_channels: Annotated[int, Ge(0)] = 0,
    learned_variance: bool = False,
    kind: PredictionKind = "v",
) -> Denoiser:
    """An untrained MMDiT: joint attention of the patches and a text's tokens (Esser et al. 2024, section 4).

    context_dim: width of the condition's tokens; vector_dim: of its vector, null for a model without one. positions: a
    learned `table` of side × side patches, of which smaller samples take the middle, or `rotary`, for any size.
    qk_norm: normalise queries and keys, for a stable training.
    """
    from guidegraph.nodes.models.transformers.denoiser import MMDiTDenoiser
    from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig

    config = MMDiTConfig(
        in_channels=in_channels,
        out_channels=2 * in_channels if learned_variance else in_channels,
        spatial_channels=spatial_channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=FEED_FORWARD * width,
        context_dim=context_dim,
        vector_dim=vector_dim,
        positions=positions,
        side=side,
        qk_norm=qk_norm,
        kind=kind,
    )
    return build_untrained(lambda: MMDiTDenoiser(MMDiT(config)), seed)

"""Normalized attention guidance: negative prompts in attention (Chen et al. 2025, arXiv 2505.21179)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Le

from guidegraph import (
    Condition,
    HookedDenoiser,
    Prediction,
    Sample,
    Scale,
    Tensor,
    Timesteps,
    hookimpl,
    node,
    predict,
    select_sites,
    step_shape,
)
from guidegraph_nag.attention import make_rule


@node(
    "nag.predict",
    needs=lambda scale: {"denoiser", "x", "t", "condition"} | (set() if scale == 1 else {"negative"}),
    shape=lambda x, condition, negative: step_shape(x, condition=condition, negative=negative),
)
def predict_away(
    denoiser: HookedDenoiser,
    x: Sample,
    t: Timesteps,
    condition: Condition,
    negative: Condition | None = None,
    *,
    scale: Scale = 5.0,
    tau: Annotated[float, Ge(1)] = 2.5,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.25,
    sites: str | list[str] | None = None,
) -> Prediction:
    """The prediction for a condition, with attention to its tokens guided away from another's: one call.

    At each site Z⁺ and Z⁻ attend to the tokens of `condition` and of `negative`, with the same queries, and `guide`
    joins them (Chen et al. 2025, section 3). All else comes from `condition`.
    scale: φ, a number or a tensor (B); 1 is no guidance. tau: τ, the largest growth of the norm. alpha: how far the
    result goes from Z⁺. sites: beginnings of the names of "cross" or "joint" sites; all of them if left out.
    Raises an error for conditions without tokens, for other sites, for a network that mixes the tokens of a text before
    these sites (Z-Image), for a guided denoiser, and without `negative` if the scale is not 1.
    """
    if negative is None:
        if isinstance(scale, (int, float)) and scale == 1:
            return predict(denoiser, x, t, condition)
        raise ValueError(f"scale is {scale}, and there is nothing to guide away from: wire 'negative', or set it to 1")
    if condition.tokens is None or negative.tokens is None:
        raise ValueError("nag guides attention to tokens, and one of the conditions has none: take that of a text")
    if getattr(denoiser, "guides_itself", False):
        raise ValueError(
            "nag joins two texts to one condition, and this denoiser is guided: it predicts for one of its own too. "
            "Wire the denoiser inside it, and put guidance.cfg outside"
        )
    if getattr(denoiser, "mixes_tokens", False):
        raise ValueError(
            "nag needs two texts that stay apart, and this denoiser mixes all tokens first: use guidance.cfg"
        )
    chosen = denoiser.sites() if sites is None else select_sites(denoiser, sites)
    guided = [site for site in chosen if site.kind in ("cross", "joint")]
    if not guided or (sites is not None and len(guided) < len(chosen)):
        raise ValueError(f"nag guides attention to tokens: {sites or 'this denoiser'} has sites of other kinds")
    count = negative.tokens.shape[1]
    rules = {site: make_rule(count, site.kind == "joint", scale, tau, alpha) for site in guided}
    both = join(condition, negative, x.shape[0])
    return predict(denoiser.with_rules(rules), x, t, both)


def join(condition: Condition, negative: Condition, batch: int) -> Condition:
    """A condition with the tokens of two, one after the other, and their masks; all else comes from the first."""
    import torch

    def expand(value: Tensor) -> Tensor:
        return value.expand(batch, *value.shape[1:])

    pair = [expand(item.tokens) for item in (condition, negative) if item.tokens is not None]
    masks: list[Tensor] = []
    if condition.mask is not None or negative.mask is not None:
        for item, tokens in zip((condition, negative), pair, strict=True):
            masks.append(tokens.new_ones(tokens.shape[:2]).bool() if item.mask is None else expand(item.mask))
    return replace(condition, tokens=torch.cat(pair, 1), mask=torch.cat(masks, 1) if masks else None)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The node of this package."""
    return [predict_away]

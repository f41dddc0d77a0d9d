"""Token perturbation guidance (Rajabi et al. 2025, arXiv 2506.10036)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import (
    Condition,
    HookedDenoiser,
    Noise,
    Prediction,
    Rule,
    Sample,
    Scale,
    Site,
    Tensor,
    Timesteps,
    hookimpl,
    node,
    predict,
    select_sites,
    step_shape,
)


@node("tpg.predict", shape=lambda x, condition: step_shape(x, condition=condition))
def predict_shuffled(
    denoiser: HookedDenoiser,
    x: Sample,
    t: Timesteps,
    noise: Noise,
    condition: Condition | None = None,
    *,
    sites: str | list[str] = "input.down",
) -> Prediction:
    """The prediction of a network whose blocks get their tokens in a random order (Rajabi et al. 2025, section 4).

    A shuffle keeps the norms of the tokens and loses their places. Each sample, site and step has an order of its own.
    noise: of the shape of x, fresh in each step; a sample's tokens are ordered by values of its noise, so the order
    does not depend on the batch. sites: beginnings of the names of "input" sites, as denoiser.sites lists them; the
    authors take most blocks of the down path of SDXL. Raises an error for other sites, and for one that has a rule
    already.
    """
    chosen = select_sites(denoiser, sites)
    if wrong := [site.name for site in chosen if site.kind != "input"]:
        raise ValueError(f"tpg shuffles what enters a block, at sites such as input.down.0, and not {', '.join(wrong)}")
    keys = noise.expand(x.shape[0], *noise.shape[1:]).flatten(2)
    rules: dict[Site, Rule] = {site: make_rule(keys, turn) for turn, site in enumerate(chosen)}
    return predict(denoiser.with_rules(rules), x, t, condition)


def make_rule(keys: Tensor, turn: int) -> Callable[[Tensor], Tensor]:
    """A rule that shuffles features (B, C, h, w) by the order of h · w of the keys (B, K, M), M ≥ h · w.

    Those of the first K turns are independent; the next K are of sums of two neighbouring keys, then of keys two apart.
    """
    import torch

    apart, channel = divmod(turn, keys.shape[1])

    def shuffle(h: Tensor) -> Tensor:
        tokens = h.flatten(2)
        drawn = keys[:, channel]
        if apart:
            drawn = drawn + drawn.roll(apart, dims=1)
        chosen = drawn[:, : tokens.shape[2]].double()
        unequal = chosen + 1e-12 * torch.arange(tokens.shape[2], device=h.device)  # equal keys sort alike everywhere
        order = unequal.sort(dim=1).indices
        shuffled: Tensor = tokens.gather(2, order[:, None].expand_as(tokens)).unflatten(2, h.shape[2:])
        return shuffled

    return shuffle


@node(
    "tpg.guide",
    needs=lambda scale: {"guided"} if scale == 0 else {"guided", "cond", "shuffled"},
    identity=lambda scale: "guided" if scale == 0 else None,
)
def guide(guided: Prediction, cond: Prediction, shuffled: Prediction, *, scale: Scale = 3.0) -> Prediction:
    """Away from the prediction of shuffled tokens: ε̃ = ε̂ + γ (ε_c − ε_shuffled) (Rajabi et al. 2025, section 4).

    guided: ε̂, the prediction so far. With ε̂ = ε_c it is the paper's guidance, for the condition or the null
    condition; with the result of guidance.cfg, ε_u + s (ε_c − ε_u), it adds to classifier-free guidance, as in the
    authors' code.
    cond, shuffled: of one condition. scale: γ, a number or a tensor (B); 0 gives guided itself.
    """
    return guided + scale * (cond - shuffled)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [predict_shuffled, guide]

"""Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import AttentionCall, HookedDenoiser, Prediction, Scale, Tensor, hookimpl, node, select_sites


def identity(call: AttentionCall) -> Tensor:
    """I · V: the self-attention map softmax(QKᵀ/√d) is the identity, so that every pixel keeps its own value."""
    return call.value


@node("pag.perturb")
def perturb(denoiser: HookedDenoiser, *, sites: str | list[str] = "self.middle") -> HookedDenoiser:
    """The denoiser with the identity instead of some of its self-attention maps (Ahn et al. 2024, section 4).

    PSA(Q, K, V) = V replaces SA(Q, K, V) = softmax(QKᵀ/√d) V: the prediction loses its structure and keeps
    its appearance. Wire it outside of the loop.
    sites: beginnings of the names of "self" sites, as denoiser.sites lists them; the paper takes the middle of Stable
    Diffusion. Raises an error for a site that is not a self-attention, and for one that has a rule already.
    """
    chosen = select_sites(denoiser, sites)
    if wrong := [site.name for site in chosen if site.kind != "self"]:
        raise ValueError(f"identity stands for a map among the pixels alone, and not at {', '.join(wrong)}")
    return denoiser.with_rules(dict.fromkeys(chosen, identity))


@node(
    "pag.guide",
    needs=lambda scale: {"guided"} if scale == 0 else {"guided", "cond", "perturbed"},
    identity=lambda scale: "guided" if scale == 0 else None,
)
def guide(guided: Prediction, cond: Prediction, perturbed: Prediction, *, scale: Scale = 3.0) -> Prediction:
    """Away from the prediction of a perturbed denoiser: ε̃ = ε̂ + w (ε_c − ε_ptb) (Ahn et al. 2024, section 4).

    guided: ε̂, the prediction so far. With ε̂ = ε_c it is the paper's guidance, ε_c + w (ε_c − ε_ptb); with the result
    of guidance.cfg, ε_u + s (ε_c − ε_u), it adds to classifier-free guidance. cond, perturbed: of one condition, which
    may be the null condition. scale: w, a number or a tensor (B); 0 gives guided itself.
    """
    return guided + scale * (cond - perturbed)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [perturb, guide]

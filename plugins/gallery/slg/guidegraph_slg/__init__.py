"""Skip-layer guidance of Stable Diffusion 3.5 (Stability AI 2024, and Hyung et al. 2024, arXiv 2411.18664)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Ge, Le

from guidegraph import AttentionCall, HookedDenoiser, Prediction, Rule, Scale, Tensor, hookimpl, node, select_sites

Fraction = Annotated[float, Ge(0), Le(1)]


def leave_out(h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
    """A block's input without the change by the block."""
    return h.new_zeros(h.shape), skipped


def attend_to_nothing(call: AttentionCall) -> Tensor:
    """Zeros instead of the attended values, so that only the features of the skip connection are left."""
    return call.query.new_zeros(call.query.shape)


@node("slg.skip")
def skip(denoiser: HookedDenoiser, *, sites: str | list[str]) -> HookedDenoiser:
    """The denoiser without some of its layers: a worse version of itself. Wire it outside of the loop.

    sites: names, or their beginnings, as denoiser.sites lists them. "skip.block.7" is a block of a transformer; those
    of Stable Diffusion 3.5 medium are 7, 8 and 9. In a U-Net, "self" and "cross" are attentions: zeros replace
    the attended values. Raises an error for other sites, and for one that has a rule already.
    """
    rules: dict[Any, Rule] = {}
    for site in select_sites(denoiser, sites):
        if site.kind == "skip" and site.stage == "block":
            rules[site] = leave_out
        elif site.kind in ("self", "cross"):
            rules[site] = attend_to_nothing
        else:
            raise ValueError(f"a layer is a block or an attention, such as skip.block.7 or self.up.0, and not {site}")
    return denoiser.with_rules(rules)


@node("slg.window")
def window(index: int, steps: int, *, scale: Scale = 2.8, start: Fraction = 0.01, stop: Fraction = 0.2) -> Scale:
    """The scale in the steps after start · N and before stop · N, and 0 in the others, which leaves their call out.

    index: the step, from 0; steps: N. The defaults are those recommended for Stable Diffusion 3.5 medium.
    """
    import torch

    after, before = index > start * steps, index < stop * steps
    if isinstance(after, bool) and isinstance(before, bool):
        return scale if after and before else 0.0
    inside = torch.logical_and(torch.as_tensor(after), torch.as_tensor(before))
    return torch.where(inside, torch.as_tensor(scale, dtype=torch.float32), 0.0)


@node(
    "slg.guide",
    needs=lambda scale: {"guided"} if scale == 0 else {"guided", "cond", "skipped"},
    identity=lambda scale: "guided" if scale == 0 else None,
)
def guide(guided: Prediction, cond: Prediction, skipped: Prediction, *, scale: Scale = 2.8) -> Prediction:
    """Away from the prediction of a denoiser without some layers: û + w (u_c − u_skip).

    As in Stability AI's code and in diffusers' pipeline. guided: the prediction so far, usually guidance.cfg's. cond,
    skipped: of one condition. scale: w, a number or a tensor (B), usually from slg.window; 0 gives guided itself.
    """
    return guided + scale * (cond - skipped)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [skip, window, guide]

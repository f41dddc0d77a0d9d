"""Autoguidance: a diffusion model guided by a worse version of itself (Karras et al. 2024, arXiv 2406.02507)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import Prediction, Scale, hookimpl, node


def _inputs_needed(weight: object, scale: object) -> set[str]:
    return {"cond"} | ({"weak"} if weight != 1 else set()) | ({"uncond"} if scale != 1 else set())


@node(
    "autoguidance.guide",
    needs=_inputs_needed,
    identity=lambda weight, scale: "cond" if weight == 1 and scale == 1 else None,
)
def guide(
    cond: Prediction, weak: Prediction, uncond: Prediction | None = None, *, weight: Scale = 2.0, scale: Scale = 1.0
) -> Prediction:
    """Away from a weaker model of the same condition: D_w = w D₁ + (1 − w) D₀ (Karras et al. 2024, eq. 3).

    cond: D₁, the model's prediction with the condition. weak: D₀, the prediction of a smaller model, trained for less
    time on the same task, at the same x and t. The weights sum to 1, so eq. 3 is the same in ε, x0 and v. weight: w of
    the paper; 1 is cond. uncond: the model's prediction without a condition; scale: s of classifier-free guidance,
    whose term (s − 1)(D₁ − D_∅) is added; 1 adds nothing. Each is a number or a tensor (B).
    Raises an error for predictions of two kinds, and for a scale other than 1 where port uncond is not wired.
    """
    guided = cond + (weight - 1) * (cond - weak)
    if uncond is not None:
        return guided + (scale - 1) * (cond - uncond)
    if isinstance(scale, (int, float)) and scale == 1:
        return guided
    raise ValueError(
        f"scale is {scale}, and there is no unconditional prediction to guide away from: wire 'uncond', or set it to 1"
    )


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [guide]

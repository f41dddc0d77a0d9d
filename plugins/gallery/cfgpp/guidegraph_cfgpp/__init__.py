"""CFG++: manifold-constrained classifier-free guidance (Chung et al. 2024, arXiv 2406.08070)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Ge, Le

from guidegraph import Prediction, hookimpl, node


@node("cfgpp.guide", identity=lambda strength: "cond" if strength == 1 else None)
def guide(cond: Prediction, uncond: Prediction, *, strength: Annotated[float, Ge(0), Le(1)] = 0.6) -> Prediction:
    """ε̂^λ = ε_∅ + λ (ε_c − ε_∅), λ in [0, 1], from which x̂0 is computed (Chung et al. 2024, algorithm 2).

    strength: λ; 0 is uncond, 1 is cond. The other half of the method is in scheduler.step, which noises x̂0 again with
    the unconditional ε: wire `renoise: uncond` there. It takes ddim, euler, euler_ancestral and tcd, with two steps or
    more, which compute x′ from x̂0 and ε alone, and refuses other samplers.
    λ is not a guidance scale. A DDIM step with it equals one of guidance.cfg with s_t = λ r_t / (r_t − r′), where r =
    σ/α and r′ is the ratio of the next step: large while steps are short, and λ itself in a step that ends at σ = 0.
    """
    return uncond + strength * (cond - uncond)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The node of this package."""
    return [guide]

"""The types of the settings that samplers share, with their ranges."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator

from guidegraph_runtime.tables.sampler_table import check_eta_is_one, check_eta_is_zero

Steps: TypeAlias = Annotated[int, Ge(1)]
Offset: TypeAlias = Annotated[int, Ge(0)]
Clip: TypeAlias = bool | Annotated[float, Gt(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
Fraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
Eta: TypeAlias = Annotated[float, Ge(0), Le(1)]
NoEta: TypeAlias = Annotated[float, AfterValidator(check_eta_is_zero)]
AncestralEta: TypeAlias = Annotated[float, AfterValidator(check_eta_is_one)]

SHARED_SETTINGS = """
Port levels: the levels to visit, from any levels node. Without it, the settings steps, spacing, offset, final, sigmas
and strength choose them within the timesteps that the schedule's model was trained on (trained_from … trained_to).

All settings that several samplers share:
steps: steps of the solver; some solvers take several model calls, and rows, per step. spacing: of the timesteps (Lin
et al. 2023, table 2), by default that of the sampler's reference implementation. offset: added to leading timesteps.
final: ᾱ after the last step, 1 or ᾱ_0. sigmas: σ/α as in the schedule at those timesteps, or spaced as in Karras et
al. (2022), or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile of dynamic
thresholding (Saharia et al. 2022). threshold_max: upper bound of this quantile. strength: run only this last fraction
of the steps, rounded down but at least one, for a start from a picture (scheduler.add_noise).

eta: how much of DDPM's noise a step adds, if the sampler has a choice; other samplers accept only their fixed value, so
that one can replace another.

rederive_eps: derive ε from the clipped x̂0.
"""
"""The ports and settings that several samplers share, appended to the docstring of each module of samplers."""

"""The types of the settings that samplers share, with what each accepts."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator

from guidegraph_runtime.tables.sampler import ancestral_eta, drawing_none

Steps: TypeAlias = Annotated[int, Ge(1)]
Offset: TypeAlias = Annotated[int, Ge(0)]
Clip: TypeAlias = bool | Annotated[float, Gt(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
Fraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
Eta: TypeAlias = Annotated[float, Ge(0), Le(1)]
NoEta: TypeAlias = Annotated[float, AfterValidator(drawing_none)]
AncestralEta: TypeAlias = Annotated[float, AfterValidator(ancestral_eta)]

SHARED_SETTINGS = """
Port levels: the levels to visit, of any levels node. Without it, the settings steps, spacing, offset, final, sigmas and
strength choose them within the timesteps that the schedule's model knows (trained_from … trained_to).

All settings that several samplers share:
steps: steps of the solver; some take several model calls, and rows, for each. spacing: which timesteps (Lin et al.
2023, table 2), by default as the sampler's reference implementation has it. offset: added to leading timesteps.
final: ᾱ after the last step, 1 or ᾱ_0. sigmas: levels of σ/α as the schedule has them at those timesteps, or spaced
as Karras et al. (2022) do, or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile
of dynamic thresholding (Saharia et al. 2022). threshold_max: the most that this quantile counts as. strength: only
this last part of the steps, rounded down but at least one, for a start from a picture (scheduler.add_noise).

eta: how much of DDPM's noise a step adds, where the sampler has a choice; the others take only the value that they have
anyway, so that one can stand in for another.

rederive_eps: ε follows the clipped x̂0.
"""
"""What ports and settings mean that several samplers share: a part of the docstring of each module of samplers."""

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

"""The types of the settings that samplers share, with what each accepts."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator

Steps: TypeAlias = Annotated[int, Ge(1)]
Offset: TypeAlias = Annotated[int, Ge(0)]
Clip: TypeAlias = bool | Annotated[float, Gt(0)]
Fraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
Eta: TypeAlias = Annotated[float, Ge(0), Le(1)]


def _deterministic(eta: float) -> float:
    if eta != 0:
        raise ValueError(
            "this sampler draws no noise, so eta is 0: use ddim, euler_ancestral or dpmpp_2m_sde for noise at each step"
        )
    return eta


def _ancestral(eta: float) -> float:
    if eta != 1:
        raise ValueError("DDPM is ancestral sampling, so eta is 1: use ddim, which is DDPM at eta 1, for less noise")
    return eta


NoEta: TypeAlias = Annotated[float, AfterValidator(_deterministic)]
AncestralEta: TypeAlias = Annotated[float, AfterValidator(_ancestral)]

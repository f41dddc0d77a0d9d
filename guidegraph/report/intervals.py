"""The mean of a few repetitions and its 95 % interval, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054
SMALL = (12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836, 2.446911851, 2.364624252, 2.306004135)
"""The 0.975 quantile of Student's t with 1 to 8 degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t with ``freedom`` degrees, at least 1; within 1e-4.

    Above 8 degrees: Abramowitz and Stegun, eq. 26.7.5, an expansion around the normal quantile.
    """
    if freedom < 1:
        raise ValueError(f"degrees of freedom are at least 1; found {freedom}")
    if freedom <= len(SMALL):
        return SMALL[freedom - 1]
    z, n = Z, float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4),
    )
    return sum(terms)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and low and high end of its 95 % interval over independent repetitions; NaN ends for a single value.

    Raises ``ValueError`` without values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half

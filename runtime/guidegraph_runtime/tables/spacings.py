"""Further spacings of noise levels, as timesteps or σ/α in decreasing order."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from guidegraph_runtime.tables.noise_levels import exponential
from guidegraph_runtime.tables.rows import Array


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] with I_x(a, b) = p, by bisection; a, b > 0."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return round((low + high) / 2, 15)  # rounding errors of the fraction are about 1e-16


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the mirrored one converges faster
        return 1 - beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0  # 1 + d₁/(1 + d₂/(1 + …)), evaluated from the inside; 200 terms exceed float64 here
    for n in range(200, 0, -1):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + d / fraction
    return math.exp(log_front) / (a * fraction)


Aligned: TypeAlias = Literal["sd1", "sdxl", "svd"]

# fmt: off
ALIGNED: dict[str, tuple[float, ...]] = {
    "sd1": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
        0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
        0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
# fmt: on
"""σ/α of ten steps, optimised for each model (Sabour et al. 2024, appendix); the last one ends the tenth step."""


def simple(first: float, last: float, steps: int) -> Array:
    """Timesteps from the last of training on, T/steps apart and rounded up: ComfyUI's `simple`."""
    span = last - first + 1
    times: Array = last - np.floor(np.arange(steps) * (span / steps))
    return times


def beta(first: float, last: float, steps: int, a: float, b: float) -> Array:
    """Whole timesteps at the quantiles of a Beta(a, b) distribution (Lee et al. 2024); duplicates are removed."""
    quantiles = 1 - np.linspace(0, 1, steps, endpoint=False)
    positions = np.array([beta_quantile(float(p), a, b) for p in quantiles]) * (last - first)
    times: Array = first + np.round(positions)
    distinct: Array = times[np.append(True, np.diff(times) != 0)]
    return distinct


def beta_sigmas(high: float, low: float, steps: int, a: float, b: float) -> Array:
    """σ from high to low at the quantiles of a Beta(a, b) distribution: diffusers' `use_beta_sigmas`."""
    quantiles = 1 - np.linspace(0, 1, steps)
    sigmas: Array = low + np.array([beta_quantile(float(p), a, b) for p in quantiles]) * (high - low)
    return sigmas


def polyexponential(high: float, low: float, steps: int, rho: float) -> Array:
    """σ/α whose logarithm is a polynomial of degree ρ: k-diffusion's; ρ = 1 is exponential."""
    return exponential(high, low, 1 - np.linspace(1, 0, steps) ** rho)


def kl_optimal(high: float, low: float, steps: int) -> Array:
    """σ/α = tan of evenly spaced angles (Sabour et al. 2024, eq. 11, the optimum for Gaussian data)."""
    ramp = np.linspace(0, 1, steps)
    angles: Array = ramp * math.atan(low) + (1 - ramp) * math.atan(high)
    return np.tan(angles)


def align_your_steps(model: Aligned, steps: int) -> Array:
    """Align Your Steps (Sabour et al. 2024): ten steps optimised for a model, interpolated in log σ for other counts.

    Returns `steps` levels, without the end of the last step.
    """
    log_ratios = np.log(ALIGNED[model])
    return np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(log_ratios)), log_ratios))[:-1]

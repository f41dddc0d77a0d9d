"""k-diffusion's solvers, and the grids of k-diffusion and ComfyUI, in plain float64 NumPy.

Solvers move y = x/α along falling s = σ/α, as k-diffusion does: denoise(y, s) is x̂0, sigmas ends at 0, and noises gives
a standard normal array each time a solver draws one. Grids list the s that a schedule's (T) σ/α allow, without the 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

Array: TypeAlias = NDArray[np.float64]
Denoise: TypeAlias = Callable[[Array, float], Array]
Solver: TypeAlias = Callable[[Denoise, Array, Sequence[float], Iterator[Array]], Array]
Grid: TypeAlias = Callable[[Array, int], Array]


# Solvers of dy/ds = (y − x̂0)/s


def slope(denoise: Denoise, y: Array, s: float) -> Array:
    return (y - denoise(y, s)) / s


def split(start: float, end: float, eta: float = 1.0) -> tuple[float, float]:
    """(s_down, s_up) of an ancestral step from start: it ends at s_down, and noise of s_up raises it to end."""
    variance = eta**2 * end**2 * (start**2 - end**2) / start**2
    return math.sqrt(end**2 - variance), math.sqrt(variance)


def euler(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    for a, b in pairwise(sigmas):
        y = y + (b - a) * slope(denoise, y, a)
    return y


def euler_ancestral(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    for a, b in pairwise(sigmas):
        down, up = split(a, b)
        y = y + (down - a) * slope(denoise, y, a)
        if b > 0:
            y = y + up * next(noises)
    return y


def heun(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    for a, b in pairwise(sigmas):
        first = slope(denoise, y, a)
        ahead = y + (b - a) * first
        y = y + (b - a) * (first + slope(denoise, ahead, b)) / 2 if b > 0 else ahead
    return y


def midpoint(denoise: Denoise, y: Array, a: float, b: float) -> Array:
    """From a to b > 0 with the slope at their geometric mean."""
    middle = math.sqrt(a * b)
    inner = y + (middle - a) * slope(denoise, y, a)
    return y + (b - a) * slope(denoise, inner, middle)


def dpm_2(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    for a, b in pairwise(sigmas):
        y = midpoint(denoise, y, a, b) if b > 0 else denoise(y, a)
    return y


def dpm_2_ancestral(
    denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array], eta: float = 1.0
) -> Array:
    for a, b in pairwise(sigmas):
        down, up = split(a, b, eta)
        y = midpoint(denoise, y, a, down) + up * next(noises) if b > 0 else denoise(y, a)
    return y


def lms(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    """The integral of the polynomial through the last four slopes."""
    slopes: list[Array] = []
    for i, (a, b) in enumerate(pairwise(sigmas)):
        slopes = [slope(denoise, y, a), *slopes][:4]
        nodes = sigmas[i::-1][:4]
        for node, value in zip(nodes, slopes, strict=True):
            other_nodes = [other for other in nodes if other != node]
            integral = (Polynomial.fromroots(other_nodes) if other_nodes else Polynomial([1.0])).integ()
            weight = (integral(b) - integral(a)) / np.prod([node - other for other in other_nodes])
            y = y + weight * value
    return y


def deis(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    """ComfyUI's: the polynomial in t through the last three slopes, integrated over σ(t) with log(1 + σ²) = ½ at² + bt.

    a and b are such that σ is 0.002 at t = 0.001 and 80 at t = 1.
    """
    a = 2 * (math.log1p(0.002**2) / 0.001 - math.log1p(80**2)) / (0.001 - 1)
    b = math.log1p(80**2) - a / 2
    slopes: list[tuple[float, Array]] = []
    for start, end in pairwise(sigmas):
        time = [(math.sqrt(b**2 + 2 * a * math.log1p(s**2)) - b) / a for s in (start, end)]
        slopes = [(time[0], slope(denoise, y, start)), *slopes][:3]
        if end == 0:
            return denoise(y, start)

        def along(sigma: float, node: float, nodes: tuple[float, ...]) -> float:
            t = (math.sqrt(b**2 + 2 * a * math.log1p(sigma**2)) - b) / a
            return math.prod((t - other) / (node - other) for other in nodes if other != node)

        nodes = tuple(node for node, _ in slopes)
        y = y + sum(quad(along, start, end, args=(node, nodes))[0] * value for node, value in slopes)
    raise ValueError("sigmas must end at 0")


# Solvers that are exact for a constant x̂0 (DPM-Solver++), in λ = −log s


def toward(y: Array, x0: Array, a: float, b: float) -> Array:
    """y at b, for a flow from a with constant x̂0."""
    return b / a * y + (1 - b / a) * x0


def dpmpp_2s_ancestral(
    denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array], eta: float = 1.0
) -> Array:
    for a, b in pairwise(sigmas):
        x0 = denoise(y, a)
        if b == 0:
            return x0
        down, up = split(a, b, eta)
        middle = math.sqrt(a * down)
        inner = toward(y, x0, a, middle)
        y = toward(y, denoise(inner, middle), a, down) + up * next(noises)
    raise ValueError("sigmas must end at 0")


def dpmpp_sde(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    """Both draws of a step are of one Brownian path W(s): its increments to the middle and to the end, normalised."""
    for a, b in pairwise(sigmas):
        x0 = denoise(y, a)
        if b == 0:
            return x0
        middle = math.sqrt(a * b)
        to_middle = math.sqrt(a - middle) * next(noises)
        down, up = split(a, middle)
        inner = toward(y, x0, a, down) + up * to_middle / math.sqrt(a - middle)
        to_end = to_middle + math.sqrt(middle - b) * next(noises)
        down, up = split(a, b)
        y = toward(y, denoise(inner, middle), a, down) + up * to_end / math.sqrt(a - b)
    raise ValueError("sigmas must end at 0")


def dpmpp_2m(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    return multistep_sde(denoise, y, sigmas, noises, eta=0.0, order=2, solver_type="midpoint")


def dpmpp_2m_sde_midpoint(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    return multistep_sde(denoise, y, sigmas, noises, eta=1.0, order=2, solver_type="midpoint")


def dpmpp_2m_sde_heun(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    return multistep_sde(denoise, y, sigmas, noises, eta=1.0, order=2)


def dpmpp_3m_sde(denoise: Denoise, y: Array, sigmas: Sequence[float], noises: Iterator[Array]) -> Array:
    return multistep_sde(denoise, y, sigmas, noises, eta=1.0, order=3)


def multistep_sde(
    denoise: Denoise,
    y: Array,
    sigmas: Sequence[float],
    noises: Iterator[Array],
    eta: float,
    order: int,
    solver_type: Literal["midpoint", "heun"] = "heun",
) -> Array:
    """x̂0's polynomial in λ through the last calls, by its divided differences, against e^{(1+η)λ}.

    Its integral is a sum over Gauss points, so that no formula of ours is repeated.
    """
    past: list[tuple[float, Array]] = []
    for a, b in pairwise(sigmas):
        past = [(-math.log(a), denoise(y, a)), *past][:order]
        if b == 0:
            return past[0][1]
        start, rate, h = -math.log(a), 1 + eta, math.log(a / b)
        points, weights = np.polynomial.legendre.leggauss(40)
        lam = start + (points + 1) * h / 2
        kernel = rate * np.exp(-rate * (start + h - lam)) * weights * h / 2
        if solver_type == "midpoint" and len(past) == 2:  # the slope counts as at the middle of the step
            lam = np.full_like(lam, start + h / 2)
        x0 = sum(
            np.prod([(lam - other) / (node - other) for other, _ in past if other != node], axis=0)[:, None] * value
            if len(past) > 1
            else np.ones_like(lam)[:, None] * value
            for node, value in past
        )
        if len(past) == 3:  # k-diffusion counts half of the curvature
            (t0, v0), (t1, v1), (t2, v2) = past
            curvature = ((v0 - v1) / (t0 - t1) - (v1 - v2) / (t1 - t2)) / (t0 - t2)
            x0 = x0 - 0.5 * (lam[:, None] - start) ** 2 * curvature
        y = math.exp(-rate * h) * y + kernel @ x0
        if eta > 0:
            y = y + next(noises) * b * math.sqrt(1 - math.exp(-2 * eta * h))
    raise ValueError("sigmas must end at 0")


# Grids


def at_times(sigmas: Array, t: Array) -> Array:
    """σ/α at fractional timesteps, interpolated in its logarithm as k-diffusion's and ComfyUI's wrappers do."""
    low = np.floor(t).astype(int)
    high = np.minimum(low + 1, len(sigmas) - 1)
    weight = t - low
    return np.exp((1 - weight) * np.log(sigmas[low]) + weight * np.log(sigmas[high]))


def normal(sigmas: Array, steps: int) -> Array:
    return at_times(sigmas, np.linspace(len(sigmas) - 1, 0, steps))


def sgm_uniform(sigmas: Array, steps: int) -> Array:
    return at_times(sigmas, np.linspace(len(sigmas) - 1, 0, steps + 1)[:-1])


def simple(sigmas: Array, steps: int) -> Array:
    return np.array([sigmas[-(1 + int(i * (len(sigmas) / steps)))] for i in range(steps)])


def ddim_uniform(sigmas: Array, steps: int) -> Array:
    """Every (T // steps)-th timestep from 1 on: one more than `steps` if these do not divide T."""
    return sigmas[1 :: len(sigmas) // steps][::-1]


def beta(sigmas: Array, steps: int) -> Array:
    times = np.rint(beta_distribution.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6) * (len(sigmas) - 1))
    return sigmas[[int(t) for i, t in enumerate(times) if i == 0 or t != times[i - 1]]]


def karras(sigmas: Array, steps: int, rho: float = 7.0) -> Array:
    ramp = np.linspace(0, 1, steps)
    return (sigmas[-1] ** (1 / rho) + ramp * (sigmas[0] ** (1 / rho) - sigmas[-1] ** (1 / rho))) ** rho


def exponential(sigmas: Array, steps: int) -> Array:
    return np.exp(np.linspace(math.log(sigmas[-1]), math.log(sigmas[0]), steps))


def polyexponential(sigmas: Array, steps: int, rho: float = 1.0) -> Array:
    low, high = math.log(sigmas[0]), math.log(sigmas[-1])
    return np.exp(np.linspace(1, 0, steps) ** rho * (high - low) + low)


def kl_optimal(sigmas: Array, steps: int) -> Array:
    share = np.linspace(0, 1, steps)
    return np.tan(share * math.atan(sigmas[0]) + (1 - share) * math.atan(sigmas[-1]))


# fmt: off
ALIGNED = (
    14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
    0.3977456272, 0.1515232662, 0.0291671582,
)
# fmt: on
"""Published for ten steps of Stable Diffusion 1 (Sabour et al. 2024); the last one is replaced by the landing."""


def ays(sigmas: Array, steps: int) -> Array:
    """The levels of ten steps, interpolated in the logarithm for other counts; independent of the schedule."""
    places = np.arange(steps) * (len(ALIGNED) - 1) / steps
    return np.exp(np.interp(places, np.arange(len(ALIGNED)), np.log(ALIGNED)))

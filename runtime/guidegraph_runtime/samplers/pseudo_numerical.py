"""Pseudo numerical methods (Liu et al. 2022): linear multistep ε with DDIM's transfer from level to level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from guidegraph_runtime.samplers.sampler import sampler
from guidegraph_runtime.tables.noise_levels import SUBSEQUENCE, NoiseSchedule
from guidegraph_runtime.tables.rows import EPS, NOTHING, S1, S2, S3, S4, X0, Array, Level, Row, X

Warmup: TypeAlias = Literal["plms", "runge_kutta"]
Combine: TypeAlias = Literal["eps", "v"]
"""The output that is combined over several levels: ε, or v, from which ε follows at the level where the step starts."""


@sampler(SUBSEQUENCE, eta=0, steps=50, spacing="leading")
def pndm(
    levels: Sequence[Level], noise: NoiseSchedule, *, warmup: Warmup = "plms", combine: Combine = "eps"
) -> list[Row]:
    """PNDM (Liu et al. 2022): PLMS, or Runge-Kutta for the first three steps (four calls each) and then PLMS.

    warmup: how it starts, `plms` or `runge_kutta`. combine: quantity to combine over several calls, ε, or v as in
    diffusers for models that predict v.
    """
    return plms(levels, combine) if warmup == "plms" else runge_kutta(levels, noise.at, combine)


def plms(levels: Sequence[Level], combine: Combine = "eps") -> list[Row]:
    """PLMS (eq. 12), started as in the original latent diffusion code: the first step is done twice.

    One row more than steps: the second timestep repeats.
    """
    first, second, *_ = levels
    start = _output(first, combine)
    if len(levels) == 2:
        return [Row(first, _Transfer(first, second, combine)(X, start))]
    step = _Transfer(first, second, combine)
    rows = [
        Row(first, step(X, start), slots=(start, NOTHING, NOTHING, X)),
        Row(second, step(S4, (_output(second, combine) + S1) / 2), slots=(S1,)),
    ]
    return rows + _multistep(levels, 1, combine)


def runge_kutta(levels: Sequence[Level], level_at: Callable[[float], Level], combine: Combine = "eps") -> list[Row]:
    """F-PNDM (algorithm 2): three pseudo Runge-Kutta steps of four calls each (eq. 13), then PLMS."""
    if len(levels) < 5:
        raise ValueError(
            "three Runge-Kutta steps are followed by multistep ones: use at least 4 steps, or 5 from pure noise"
        )
    rows = []
    for a, b in list(pairwise(levels))[:3]:
        middle = level_at((a.t + b.t) / 2)
        half, full = _Transfer(a, middle, combine), _Transfer(a, b, combine)
        output = _output(a, combine)
        rows.append(Row(a, half(X, output), slots=(output, S1, S2)))
        # The slots hold the outputs of three steps and the partial sum; the step's start is recovered from x.
        output = _output(middle, combine)
        start = (X / middle.alpha - half.output * S1) / half.x
        total = full.x * start + full.output / 6 * (S1 + 2 * output)
        rows.append(Row(middle, half(start, output), slots=(S1, S2, S3, total)))
        fraction = full.output / (3 * half.output)  # the second output's fraction of the sum; the rest is the start
        start = (S4 - full.output / 6 * S1 - fraction * X / middle.alpha) / (full.x - fraction * half.x)
        rows.append(Row(middle, full(start, output), slots=(S1, S2, S3, S4 + full.output / 3 * output)))
        rows.append(Row(b, b.alpha * (S4 + full.output / 6 * _output(b, combine)), slots=(S1, S2, S3)))
    return rows + _multistep(levels, 3, combine)


def _multistep(levels: Sequence[Level], start: int, combine: Combine) -> list[Row]:
    """Adams-Bashforth rows for the steps from `start` on, of up to the fourth order."""
    rows = []
    for i, (a, b) in list(enumerate(pairwise(levels)))[start:]:
        output = _output(a, combine)
        combined = (
            (3 * output - S1) / 2,
            (23 * output - 16 * S1 + 5 * S2) / 12,
            (55 * output - 59 * S1 + 37 * S2 - 9 * S3) / 24,
        )[min(i, 3) - 1]
        rows.append(Row(a, _Transfer(a, b, combine)(X, combined), slots=(output, S1, S2)))
    return rows


def _output(level: Level, combine: Combine) -> Array:
    """ε, or v = αε − σx̂0, of a call at this level."""
    output: Array = EPS if combine == "eps" else level.alpha * EPS - level.sigma * X0
    return output


class _Transfer:
    """Eq. 11 from level a to b, the same as DDIM's step: x′ = α′(p x + q m), with p = `x` and q = `output`.

    m is a mix of ε, or of v: then ε = (αm + σx)/(α² + σ²), with the x and the level that the step starts from.
    """

    def __init__(self, a: Level, b: Level, combine: Combine) -> None:
        change = b.ratio - a.ratio
        self.alpha = b.alpha
        self.x = 1 / a.alpha + (change * a.sigma / a.power if combine == "v" else 0)
        self.output = change * (a.alpha / a.power if combine == "v" else 1)

    def __call__(self, x: Array, output: Array) -> Array:
        moved: Array = self.alpha * (self.x * x + self.output * output)
        return moved

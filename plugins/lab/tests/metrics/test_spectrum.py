"""Peaks of the spectrum: 1 without a grid, and as large as the grid's own power makes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guidegraph_lab.metrics.spectrum import measure_grid_peaks

SIDE = 128


def draw_noise(count: int, seed: int) -> Tensor:
    grey = torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return grey.expand(-1, 3, -1, -1)


def wave(period: float, amplitude: float) -> Tensor:
    """A wave along the rows, of power amplitude²/2."""
    return amplitude * torch.cos(2 * math.pi * torch.arange(SIDE) / period).expand(SIDE, SIDE)


def test_pictures_beside_themselves_have_a_ratio_of_1() -> None:
    image = draw_noise(2, 0)
    result = measure_grid_peaks(image, image)
    assert result.ratio == 1
    assert result.table["frequency"] == ("1/8", "2/8", "3/8", "4/8")
    assert result.table["peak"] == result.table["reference"]


def test_noise_has_no_peaks() -> None:
    result = measure_grid_peaks(draw_noise(64, 0), draw_noise(64, 1))
    assert result.table["peak"] == pytest.approx([1.0] * 4, abs=0.1)


@pytest.mark.parametrize(("period", "row"), [(8, 0), (4, 1), (8 / 3, 2), (2, 3)])
def test_a_wave_in_noise_makes_the_peak_of_its_power(period: float, row: int) -> None:
    """White noise of variance 1 has a power of S a bin along both axes together, a wave of amplitude a has a² S N/4.

    S: the squared sum of both windows; the peak of a wave holds S (N/2)²/(3N/8) of it. At 1/2 the two halves of the
    spectrum coincide, which doubles the amplitude.
    """
    amplitude = 0.2
    result = measure_grid_peaks(draw_noise(96, 0) + wave(period, amplitude), draw_noise(96, 1))
    weight = (SIDE / 2) ** 2 / (3 * SIDE / 8) * (amplitude * (1 if period == 2 else 0.5)) ** 2
    # The power of noise adds over both axes, that of the wave lies in one.
    expected = (2 * SIDE + weight * SIDE) / (2 * SIDE)
    assert result.table["ratio"][row] == pytest.approx(expected, rel=0.1)
    others = [ratio for index, ratio in enumerate(result.table["ratio"]) if index != row]
    assert others == pytest.approx([1.0] * 3, abs=0.15)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    image = draw_noise(2, 0)
    broken = image.clone()
    broken[1, 0, 5, 7] = value
    with pytest.raises(ValueError, match=r"^image holds values that are not finite"):
        measure_grid_peaks(broken, image)
    with pytest.raises(ValueError, match=r"^reference holds values that are not finite"):
        measure_grid_peaks(image, broken)


@pytest.mark.parametrize("sides", [(96, 100), (88, 96)])
def test_sides_that_the_grid_does_not_fit_are_refused(sides: tuple[int, int]) -> None:
    image = torch.zeros(1, 3, *sides)
    with pytest.raises(ValueError, match="expected sides that are multiples of 8, 96 or more; image is"):
        measure_grid_peaks(image, image)
    with pytest.raises(ValueError, match="at least 2 pixels, found 1"):
        measure_grid_peaks(image, image, period=1)
    with pytest.raises(ValueError, match="reference holds no picture"):
        measure_grid_peaks(torch.zeros(1, 3, 96, 96), torch.zeros(0, 3, 96, 96))

"""The grid that a decoder of patches may leave in pictures, seen as peaks of their power spectrum."""

from __future__ import annotations

from typing import NamedTuple

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image, Table

NEIGHBOURS = (-4, -3, 3, 4)
"""Distances of the frequencies that a peak is compared with. The window spreads a sine over one bin on each side."""


class GridPeaks(NamedTuple):
    """The largest ratio of a peak to the reference's, and the table of all peaks."""

    ratio: float
    table: Table


@node("metric.grid_peaks")
def measure_grid_peaks(image: Image, reference: Image, *, period: int = 8) -> GridPeaks:
    """How far the power at multiples of 1/period stands out in pictures (B, 3, H, W), compared with reference pictures.

    A grid of `period` pixels adds power at exactly these frequencies, along either axis. The power spectrum is taken of
    the mean of the channels under a Hann window, summed over the other axis and averaged over the pictures. A peak is
    the power at a multiple over the mean power 3 and 4 bins away; no grid gives the reference's peaks, a ratio of
    1. The table has a row for each multiple up to half the sampling rate. Raises an error for values that are not
    finite, and for pictures whose sides are not multiples of `period`, or below 12 · period: the neighbours of a peak
    would belong to the next one.
    """
    if period < 2:
        raise ValueError(f"a grid has a period of at least 2 pixels, found {period}")
    for name, pictures in (("image", image), ("reference", reference)):
        if not pictures.shape[0]:
            raise ValueError(f"{name} holds no picture")
        if not pictures.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite: look at the scale and the steps that made it")
        if any(side % period or side < 12 * period for side in pictures.shape[-2:]):
            size = "×".join(str(side) for side in pictures.shape[-2:])
            raise ValueError(f"expected sides that are multiples of {period}, {12 * period} or more; {name} is {size}")
    peaks, reference_peaks = _measure_peaks(image, period), _measure_peaks(reference, period)
    ratios = [peak / reference_peak for peak, reference_peak in zip(peaks, reference_peaks, strict=True)]
    table = Table(
        {
            "frequency": [f"{multiple}/{period}" for multiple in range(1, period // 2 + 1)],
            "peak": peaks,
            "reference": reference_peaks,
            "ratio": ratios,
        }
    )
    return GridPeaks(max(ratios), table)


def _measure_peaks(image: Tensor, period: int) -> list[float]:
    """The peak at each multiple of 1/period up to 1/2, over both axes."""
    along_rows, along_columns = _sum_power(image, -1), _sum_power(image, -2)
    peaks = []
    for multiple in range(1, period // 2 + 1):
        power_at_peak = power_beside = 0.0
        for power in (along_rows, along_columns):
            index = multiple * len(power) // period
            power_at_peak += float(power[index])
            power_beside += sum(float(power[(index + step) % len(power)]) for step in NEIGHBOURS) / len(NEIGHBOURS)
        peaks.append(power_at_peak / power_beside if power_beside else 1.0)
    return peaks


def _sum_power(image: Tensor, axis: int) -> Tensor:
    """The mean power (N) of the frequencies along an axis, summed over the frequencies along the other."""
    grey = image.detach().double().mean(1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    for side in (-2, -1):
        window = torch.hann_window(grey.shape[side], periodic=True, dtype=grey.dtype, device=grey.device)
        grey = grey * (window[:, None] if side == -2 else window)
    power: Tensor = torch.fft.fft2(grey).abs().square().mean(0)
    return power.sum(0 if axis == -1 else 1)

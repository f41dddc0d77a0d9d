"""Gaussian noise that is the same on any batch size, device, runtime and version of NumPy.

NumPy promises the raw bits of its bit generators but not the numbers that `standard_normal` makes of them, so only the
bits are NumPy's. Each sample owns a stream of Philox4x64-10 (Salmon et al. 2011): its seed is the key. The counter's
third word names the draw and its first counts blocks, so draws never overlap and none needs the ones before it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import pi, prod
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.limits import check_limit

SEED_LIMIT = 2**64


def gaussian(
    seed: SupportsIndex | Sequence[SupportsIndex],
    shape: Sequence[int],
    batch: int = 1,
    index: SupportsIndex | None = None,
) -> NDArray[np.float32]:
    """Standard normal noise of shape (batch, *shape), float32; sample i of seed s is the sample of seed s + i alone.

    A list of seeds gives one sample for each; `batch` is then their number or left at 1. `index` selects the draw: the
    one without an index is a draw of its own, so a sampler's starting noise never comes back as that of its step 0.
    A shorter shape gives the first values of a longer one.
    """
    size = prod(shape)
    check_elements(seed, batch, size)
    seeds = sample_seeds(seed, batch)
    bits = np.stack([raw_bits(one, size + size % 2, index) for one in seeds])
    return _box_muller(bits)[:, :size].astype(np.float32).reshape(len(seeds), *shape)


def check_elements(seed: SupportsIndex | Sequence[SupportsIndex], batch: int, size: int) -> None:
    """Raise ``LimitExceeded`` where a batch of samples of ``size`` elements has more than the limit."""
    samples = max(batch, len(seed) if isinstance(seed, Sequence) else 1)
    what = f"the noise of {samples:,} samples of {size:,} elements has {samples * size:,} elements"
    check_limit("elements", samples * max(size, 1), what)


def sample_seeds(seed: SupportsIndex | Sequence[SupportsIndex], batch: int = 1) -> list[int]:
    """The seed of each sample: seed, seed + 1, … for one seed, the seeds themselves for a list."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    seeds = _list_of_seeds(seed, batch)
    if not seeds or batch not in (1, len(seeds)):
        raise ValueError(f"{len(seeds)} seeds cannot fill a batch of {batch}")
    for one in seeds:
        if not 0 <= one < SEED_LIMIT:
            raise ValueError(f"a seed must be from 0 to 2**64 - 1, not {one}")
    return seeds


def batch_and_shape(
    like: Sequence[int] | None, shape: Sequence[int] | None, batch: int, seed: int | Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """How many samples of which shape to draw: those of a sample to be `like` (its shape), or of the settings.

    A single sample to be like leaves the batch to the setting, and a batch of 1 is as many as there are seeds.
    """
    if like is not None:
        batch, shape = batch if like[0] == 1 else like[0], like[1:]
    if shape is None:
        raise ValueError(
            "the noise has no shape: wire 'like', or set 'shape' to that of one sample, such as [4, 16, 16]"
        )
    return len(seed) if isinstance(seed, Sequence) and batch == 1 else batch, tuple(shape)


def raw_bits(seed: SupportsIndex, count: int, index: SupportsIndex | None = None) -> NDArray[np.uint64]:
    """`count` words of 64 random bits: a draw of the stream that `seed` names."""
    key = operator.index(seed)
    draw = 0 if index is None else operator.index(index) + 1
    if not 0 <= key < SEED_LIMIT:
        raise ValueError(f"a seed must be from 0 to 2**64 - 1, not {key}")
    if not (index is None or 0 < draw < SEED_LIMIT):
        raise ValueError(f"the index of a draw must be from 0 to 2**64 - 2, not {draw - 1}")
    # Both whole numbers are little-endian over their words: 2 × 64 bits of key, 4 × 64 of counter.
    bits = np.random.Philox(key=key, counter=draw << 128).random_raw(count)
    return np.asarray(bits, dtype=np.uint64)


def _list_of_seeds(seed: SupportsIndex | Sequence[SupportsIndex], batch: int) -> list[int]:
    # By trial, since a NumPy array of many numbers has __index__ too.
    try:
        first = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        return [operator.index(one) for one in seed]  # type: ignore[union-attr]
    return [first + i for i in range(batch)]


def _box_muller(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Box & Muller 1958 on neighbouring pairs of words along the last axis, 53 bits of each."""
    u = (bits >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((u[..., 0::2] + 1.0) * 2.0**-53))  # u₁ in (0, 1]: the logarithm is finite
    angle = u[..., 1::2] * (2.0 * pi * 2.0**-53)
    z = u  # not needed any more
    np.multiply(radius, np.cos(angle), out=z[..., 0::2])
    np.multiply(radius, np.sin(angle), out=z[..., 1::2])
    return z

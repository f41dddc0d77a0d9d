"""Gaussian noise that is the same on any batch size, device, runtime and version of NumPy.

NumPy guarantees the raw bits of its bit generators but not the numbers that `standard_normal` computes from them, so
only the bits are NumPy's. Each sample has its own stream of Philox4x64-10 (Salmon et al. 2011), with its seed as the
key. The third word of the counter is the index of the draw and the first counts blocks, so draws never overlap, and
each can be computed without the previous ones.
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

    A list of seeds gives one sample for each; `batch` is then their number or left at 1. `index` selects the draw;
    the draw without an index is distinct, so a sampler's initial noise is never drawn again in its step 0.
    A shorter shape gives the first values of a longer one.
    """
    size = prod(shape)
    check_elements(seed, batch, size)
    seeds = sample_seeds(seed, batch)
    bits = np.stack([raw_bits(sample_seed, size + size % 2, index) for sample_seed in seeds])
    return _box_muller(bits)[:, :size].astype(np.float32).reshape(len(seeds), *shape)


def check_elements(seed: SupportsIndex | Sequence[SupportsIndex], batch: int, size: int) -> None:
    """Raise ``LimitExceeded`` if a batch of samples of ``size`` elements has too many elements."""
    samples = max(batch, len(seed) if isinstance(seed, Sequence) else 1)
    message = f"the noise of {samples:,} samples of {size:,} elements has {samples * size:,} elements"
    check_limit("elements", samples * max(size, 1), message)


def sample_seeds(seed: SupportsIndex | Sequence[SupportsIndex], batch: int = 1) -> list[int]:
    """The seed of each sample: seed, seed + 1, … for one seed, the seeds themselves for a list."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    try:  # every NumPy array has __index__, so only a call shows whether it is one seed
        first = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        seeds = [operator.index(item) for item in seed]  # type: ignore[union-attr]
    else:
        seeds = [first + i for i in range(batch)]
    if not seeds or batch not in (1, len(seeds)):
        raise ValueError(f"{len(seeds)} seeds cannot fill a batch of {batch}")
    for value in seeds:
        if not 0 <= value < SEED_LIMIT:
            raise ValueError(f"a seed must be from 0 to 2**64 - 1, not {value}")
    return seeds


def batch_and_shape(
    like: Sequence[int] | None, shape: Sequence[int] | None, batch: int, seed: int | Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """The batch size and sample shape to draw, from the shape `like` of a batch or from the settings.

    If `like` has a single sample, the setting gives the batch; a batch of 1 stands for the number of seeds.
    """
    if like is not None:
        batch, shape = batch if like[0] == 1 else like[0], like[1:]
    if shape is None:
        raise ValueError(
            "the noise has no shape: wire 'like', or set 'shape' to that of one sample, such as [4, 16, 16]"
        )
    return len(seed) if isinstance(seed, Sequence) and batch == 1 else batch, tuple(shape)


def raw_bits(seed: SupportsIndex, count: int, index: SupportsIndex | None = None) -> NDArray[np.uint64]:
    """Draw `count` words of 64 random bits from the stream of `seed`."""
    key = operator.index(seed)
    draw = 0 if index is None else operator.index(index) + 1
    if not 0 <= key < SEED_LIMIT:
        raise ValueError(f"a seed must be from 0 to 2**64 - 1, not {key}")
    if not (index is None or 0 < draw < SEED_LIMIT):
        raise ValueError(f"the index of a draw must be from 0 to 2**64 - 2, not {draw - 1}")
    # Both integers are little-endian over their words: 2 × 64 bits of key, 4 × 64 bits of counter.
    bits = np.random.Philox(key=key, counter=draw << 128).random_raw(count)
    return np.asarray(bits, dtype=np.uint64)


def _box_muller(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Box & Muller 1958 on neighbouring pairs of words along the last axis, 53 bits of each."""
    u = (bits >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((u[..., 0::2] + 1.0) * 2.0**-53))  # u₁ in (0, 1]: the logarithm is finite
    angle = u[..., 1::2] * (2.0 * pi * 2.0**-53)
    z = u  # reuse the memory
    np.multiply(radius, np.cos(angle), out=z[..., 0::2])
    np.multiply(radius, np.sin(angle), out=z[..., 1::2])
    return z

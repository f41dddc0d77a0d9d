"""Uniform random numbers of data sets and trainings: the same on every machine and version of NumPy.

Each purpose has a stream of its own, so that a batch, its timesteps and its dropped labels never share numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DATA, TIMES, DROPS, MOVES = range(4)


def uniforms(seed: int, index: int, count: int, purpose: int = DATA) -> NDArray[np.float64]:
    """Numbers (count) in [0, 1), float64, from the raw Philox stream of (seed, index) and a purpose.

    Raises ``ValueError`` for a seed that is not in [0, 2⁶⁴).
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"the seed of a data set is a number from 0 to 2^64 - 1; found {seed}")
    bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64), counter=purpose << 192)
    values: NDArray[np.float64] = (bits.random_raw(count) >> np.uint64(11)) * np.float64(2.0**-53)
    return values


def pick(u: float, low: int, high: int) -> int:
    """Map a uniform number in [0, 1) to an integer of low … high, both included."""
    return low + int(u * (high - low + 1))

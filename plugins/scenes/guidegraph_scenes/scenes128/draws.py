"""Random choices from the raw Philox stream of a seed, an index and a purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from guidegraph.nodes.uniforms import uniforms

T = TypeVar("T")
STREAM = 128
"""Numbers of a sequence, after which it starts over."""

# Purposes, each with its own stream, so that one kind of choice does not shift another. The first 16 are those of
# `nodes.data.scenes`.
CONTENT, LAYOUT, LOOK, WORDS, TASK, EVERYDAY = range(16, 22)


class Draws:
    """A sequence of choices that depends on (seed, index, purpose) alone, on every machine and NumPy version.

    It repeats itself after `STREAM` choices: details in great number take several sequences.
    """

    def __init__(self, seed: int, index: int, purpose: int) -> None:
        self._values = uniforms(seed, index, STREAM, purpose).tolist()
        self._position = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        value: float = self._values[self._position % STREAM]
        self._position += 1
        return low + (high - low) * value

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer of low … high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choose(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.uniform() * len(options))]

    def pick_weighted(self, weights: Sequence[float]) -> int:
        """An index, drawn in proportion to its weight."""
        target = self.uniform(0.0, sum(weights))
        for index, weight in enumerate(weights):
            target -= weight
            if target < 0:
                return index
        return len(weights) - 1

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """The items in random order (Fisher & Yates)."""
        shuffled = list(items)
        for last in range(len(shuffled) - 1, 0, -1):
            other = self.integer(0, last)
            shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
        return shuffled

"""Which compositions never occur in training scenes: pairs, coloured objects, counts and sentence forms.

Every rule is a function of indices alone, so a held-out composition is the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import Literal

from guidegraph.nodes.data.scenes128.vocabulary import COLOURS, LARGEST_COUNT, NATURAL, OBJECTS, natural_colour

Split = Literal["train", "held_out", "all"]
PAIR_DISTANCES = frozenset({5, 11, 17, 23, 29})
"""Distances on the circle of objects: each object is held out with ten others, which is 320 of 2,016 pairs."""


def is_held_out_pair(first: int, second: int) -> bool:
    """Whether two kinds of object never occur in one training scene."""
    distance = abs(first - second)
    return min(distance, len(OBJECTS) - distance) in PAIR_DISTANCES


@lru_cache(maxsize=1)
def list_held_out_colours() -> frozenset[tuple[int, int]]:
    """The coloured objects (object, colour) of no training scene: two colours of each object, not its natural ones."""
    pairs = set()
    for index in range(len(OBJECTS)):
        natural = {natural_colour(index, artwork) for artwork in (0, 1)}
        candidates = [(3 * index + 4 * step) % len(COLOURS) for step in range(len(COLOURS))]
        pairs |= {(index, colour) for colour in [c for c in candidates if c not in natural][:2]}
    return frozenset(pairs)


def is_held_out_colour(index: int, colour: int) -> bool:
    """Whether an object never has a colour in training scenes; `NATURAL` always occurs."""
    return colour != NATURAL and (index, colour) in list_held_out_colours()


def is_held_out_count(index: int, count: int) -> bool:
    """Whether an object never occurs `count` times in a training scene.

    Half of the objects have one such count, from 2 to 4.
    """
    return 2 <= count <= LARGEST_COUNT and (index + count) % 6 == 0


def list_pairs(held_out: bool) -> tuple[tuple[int, int], ...]:
    """All pairs of different objects that are held out, or all that are not."""
    return _pairs()[held_out]


@lru_cache(maxsize=1)
def _pairs() -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    pairs = tuple(combinations(range(len(OBJECTS)), 2))
    return tuple(p for p in pairs if not is_held_out_pair(*p)), tuple(p for p in pairs if is_held_out_pair(*p))


def is_held_out(groups: Iterable[tuple[int, int, int]]) -> bool:
    """Whether groups of objects (object, count, colour) make a composition of no training scene."""
    items = list(groups)
    alone = any(is_held_out_count(index, count) or is_held_out_colour(index, colour) for index, count, colour in items)
    return alone or any(is_held_out_pair(a[0], b[0]) for a, b in combinations(items, 2))

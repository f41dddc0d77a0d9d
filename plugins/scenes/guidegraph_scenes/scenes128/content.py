"""The contents of a scene: groups of equal objects, their relation to each other, and the background.

Which compositions never occur in training scenes: pairs, coloured objects, counts and sentence forms.

Every rule is a function of indices alone, so a held-out composition is the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import Literal, NamedTuple

from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.vocabulary import (
    ABOVE,
    AIR,
    COLOURS,
    GROUNDS,
    IN_FRONT_OF,
    LARGE,
    LARGEST_COUNT,
    LEFT_OF,
    NATURAL,
    NO_RELATION,
    NORMAL,
    OBJECTS,
    SMALL,
    WATER,
    WEATHERS,
    natural_colour,
)

ARTWORK = 0
"""Of the two of each object in the file: with one, half as many latents are to be learnt."""
ATTEMPTS = 24
"""Draws of groups until they belong to the split; each draw has a stream of its own."""
PATTERNS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((1, 1), 0.42),
    ((2,), 0.10),
    ((3,), 0.09),
    ((4,), 0.09),
    ((1, 2), 0.06),
    ((1, 3), 0.05),
    ((2, 2), 0.05),
    ((1, 1, 1), 0.10),
    ((1, 1, 2), 0.02),
    ((1, 1, 1, 1), 0.02),
)
"""Counts of the groups in a scene of more than one object, and how often they occur."""
COLOURED, SIZED = 0.45, 0.25
"""How often a group has another colour than its artwork's, and another size than normal."""


class Group(NamedTuple):
    """Equal objects: their kind, number, colour, size and artwork, as indices."""

    object: int
    number: int
    colour: int
    size: int
    artwork: int


class Background(NamedTuple):
    """Ground, sky and weather, as indices."""

    ground: int
    sky: int
    weather: int


class Content(NamedTuple):
    """The contents of a scene. relation: of the first group to the second, one of LEFT_OF, ABOVE and IN_FRONT_OF."""

    groups: tuple[Group, ...]
    relation: int
    background: Background


def choose_content(seed: int, index: int, purpose: int, split: Split, single: float) -> Content:
    """Choose the contents of scene `index`. single: the fraction with one object; the held-out split has its own."""
    draws = Draws(seed, index, purpose)
    groups = choose_groups(draws, single)
    for attempt in range(1, ATTEMPTS):
        if split == "all" or is_held_out((g.object, g.number, g.colour) for g in groups) == (split == "held_out"):
            break
        draws = Draws(seed, index, purpose + (attempt << 8))
        groups = choose_groups(draws, single)
    else:
        groups = make_fit(groups, split)
    relation = choose_relation(draws, groups)
    if relation == ABOVE and groups[0].object not in AIR:
        groups = groups[::-1]
    return Content(groups, relation, choose_background(draws, groups))


def make_fit(groups: tuple[Group, ...], split: Split) -> tuple[Group, ...]:
    """Groups of the split after all attempts failed: a single object, or for `held_out` a held-out pair.

    With `single` at most 0.2, that is about one held-out scene in 2,000; with 1, one in seven.
    """
    first = groups[0]._replace(number=1, colour=NATURAL)
    if split == "train":
        return (first,)
    return (first, first._replace(object=(first.object + 5) % len(OBJECTS)))


def choose_groups(draws: Draws, single: float) -> tuple[Group, ...]:
    """Choose groups of different objects, four objects at most, in any split."""
    if draws.chance(single):
        counts: tuple[int, ...] = (1,)
    else:
        counts = PATTERNS[draws.pick_weighted([weight for _, weight in PATTERNS])][0]
    counts = tuple(draws.shuffle(counts))
    kinds: list[int] = []
    while len(kinds) < len(counts):
        kind = draws.integer(0, len(OBJECTS) - 1)
        if kind not in kinds:
            kinds.append(kind)
    return tuple(choose_group(draws, kind, count, sum(counts)) for kind, count in zip(kinds, counts, strict=True))


def choose_group(draws: Draws, kind: int, count: int, total: int) -> Group:
    """Choose the looks of `count` equal objects in a scene of `total` objects. Of four, none differs in size."""
    colour = draws.integer(0, len(COLOURS) - 1) if draws.chance(COLOURED) else NATURAL
    size = draws.choose((SMALL, LARGE)) if draws.chance(SIZED) and total < 4 else NORMAL
    return Group(kind, count, colour, size, ARTWORK)


def choose_relation(draws: Draws, groups: tuple[Group, ...]) -> int:
    """How the first group lies to the second: next to it, above it or in front of it, or no particular way."""
    if len(groups) != 2:
        return NO_RELATION
    first, second = groups
    if first.number + second.number > 2:
        return LEFT_OF if draws.chance(0.5) else NO_RELATION
    if (first.object in AIR) != (second.object in AIR) and draws.chance(0.6):
        return ABOVE
    return (LEFT_OF, IN_FRONT_OF, NO_RELATION)[draws.pick_weighted((0.5, 0.3, 0.2))]


def choose_background(draws: Draws, groups: tuple[Group, ...]) -> Background:
    """Choose a ground, mostly one that the objects belong on, and a sky and a weather that go together."""
    ground = draws.integer(0, len(GROUNDS) - 1)
    swims = groups[0].object in WATER
    if swims and draws.chance(0.4):
        ground = GROUNDS.index("water")
    elif not swims and GROUNDS[ground] == "water" and draws.chance(0.5):
        ground = draws.integer(0, len(GROUNDS) - 1)
    weather = draws.pick_weighted(WEATHER_WEIGHTS)
    sky = draws.pick_weighted(SKY_WEIGHTS[WEATHERS[weather]])
    if WEATHERS[weather] == "snowfall" and GROUNDS[ground] in ("sand", "flowers"):
        ground = GROUNDS.index("snow")
    return Background(ground, sky, weather)


WEATHER_WEIGHTS = (0.34, 0.2, 0.08, 0.09, 0.09, 0.07, 0.06, 0.07)
SKY_WEIGHTS: dict[str, tuple[float, ...]] = {
    "clear": (0.34, 0.2, 0.23, 0.23),
    "clouds": (0.5, 0.2, 0.2, 0.1),
    "overcast": (1, 0, 0, 0),
    "rain": (0.8, 0, 0, 0.2),
    "snowfall": (0.7, 0, 0, 0.3),
    "fog": (0.7, 0.3, 0, 0),
    "storm": (0.6, 0, 0, 0.4),
    "rainbow": (0.8, 0.2, 0, 0),
}
"""How often each of SKIES has a weather."""


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

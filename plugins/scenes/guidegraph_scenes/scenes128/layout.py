"""Where the objects of a scene are: their sizes, positions and depth, so that the caption is true.

Objects have a few sizes and lie in whole cells of an autoencoder's latent, so that one of a size has the same latent
wherever it is. A small network learns that; with any position and size it would have to learn thousands of each object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from guidegraph_scenes.scenes128.artwork import ARTWORKS, mask_of, sides_of
from guidegraph_scenes.scenes128.content import Content, Group
from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.vocabulary import ABOVE, AIR, IN_FRONT_OF, LARGE, LEFT_OF, NORMAL, SMALL

SIZE = 128
CELL = 8
"""The side of a cell in pixels: an autoencoder with f = 8 has one latent for each."""
CELLS = SIZE // CELL
LOWEST = CELLS - 1
"""The lowest row of cells under an object's feet, which leaves room for its shadow."""
STANDING = 10
"""Pixels below the horizon where the feet of the farthest object are."""
LEAST_HIDDEN, LARGEST_COVER = 0.04, 0.4
"""The part of an object that one in front of it hides: at least, and at most. The largest holds for their boxes too."""
NEAR = 24
"""Pixels between two groups up to which they are said to be next to each other."""
LONGER_SIDES = {
    1: {SMALL: 40, NORMAL: 64, LARGE: 96},
    2: {SMALL: 24, NORMAL: 40, LARGE: 64},
    3: {SMALL: 24, NORMAL: 32, LARGE: 48},
    4: {NORMAL: 32},
}
"""An object's longer side in pixels, by the number of objects and their size."""
SIDES = (16, 24, 32, 40, 48, 64, 96)
"""All longer sides. Objects that find no room take the next smaller one."""


class PlacedObject(NamedTuple):
    """One object in a scene: its group, artwork, and box in pixels. `flies`: it is in the air."""

    group: int
    sprite: int
    longer: int
    left: int
    top: int
    width: int
    height: int
    flies: bool

    @property
    def bottom(self) -> int:
        """The row below the object."""
        return self.top + self.height

    @property
    def columns(self) -> int:
        """The number of cells that the object lies in, from left to right."""
        return count_cells(self.width)

    @property
    def rows(self) -> int:
        """The number of cells that the object lies in, from top to bottom."""
        return count_cells(self.height)

    @property
    def padding(self) -> int:
        """The pixels between the object and the left side of its cells, in the middle of which it lies."""
        return (self.columns * CELL - self.width) // 2

    def place(self, column: int, bottom: int) -> PlacedObject:
        """The object in the cells from `column` on, with its feet at the lower side of the cells above row `bottom`."""
        return self._replace(left=column * CELL + self.padding, top=bottom * CELL - self.height)


class Layout(NamedTuple):
    """The horizon's row, the objects from back to front, and the groups from left to right if they are in that order.

    in_order: whether every object of a group is left of every object of the next.
    """

    horizon: int
    placements: tuple[PlacedObject, ...]
    in_order: bool

    @property
    def is_near(self) -> bool:
        """Whether at most `NEAR` pixels lie between the first two groups, from left to right."""
        first, second = ([p for p in self.placements if p.group == group] for group in (0, 1))
        return any(
            a.left - b.left - b.width <= NEAR and b.left - a.left - a.width <= NEAR for a in first for b in second
        )


def count_cells(pixels: int) -> int:
    """The least number of cells that span ``pixels`` pixels."""
    return -(-pixels // CELL)


def lay_out(content: Content, draws: Draws) -> Layout:
    """Place the objects of a scene: one above another, one in front of another, or side by side in any order."""
    horizon = draws.integer(46, 70)
    members = choose_members(content, draws)
    in_order = True
    if content.relation == ABOVE:
        placements = place_above(members, horizon, draws)
    elif content.relation == IN_FRONT_OF:
        placements = place_in_front(members, horizon, draws)
    elif content.relation == LEFT_OF:
        placements = place_beside(members, horizon, draws)
    else:
        in_order = draws.chance(0.5)
        placements = place_in_a_row(members if in_order else draws.shuffle(members), horizon, draws)
    depth = sorted(placements, key=lambda placement: (placement.flies, placement.bottom))
    return Layout(horizon, tuple(depth), in_order)


def choose_members(content: Content, draws: Draws) -> list[PlacedObject]:
    """The objects of all groups with their sizes, in the order of the groups, not yet placed."""
    total = sum(group.number for group in content.groups)
    members = []
    for number, group in enumerate(content.groups):
        flies = group.object in AIR and draws.chance(0.75)
        members += [make_member(number, group, LONGER_SIDES[total][group.size], flies)] * group.number
    return members


def make_member(number: int, group: Group, longer: int, flies: bool) -> PlacedObject:
    """An object of a group, at the upper left corner until it is placed."""
    sprite = ARTWORKS * group.object + group.artwork
    height, width = sides_of(sprite, longer)
    return PlacedObject(number, sprite, longer, 0, 0, width, height, flies)


def shrink_largest(members: list[PlacedObject]) -> list[PlacedObject]:
    """The objects, of which the largest have the next smaller size."""
    largest = max(member.longer for member in members)
    longer = SIDES[SIDES.index(largest) - 1]
    shrunk = []
    for member in members:
        height, width = sides_of(member.sprite, longer)
        is_largest = member.longer == largest
        shrunk.append(member._replace(longer=longer, height=height, width=width) if is_largest else member)
    return shrunk


def place_in_a_row(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place objects from left to right, those that fly in the sky."""
    while sum(member.columns for member in members) > CELLS:
        members = shrink_largest(members)
    room = CELLS - sum(member.columns for member in members)
    gaps = sorted(draws.integer(0, room) for _ in members)
    placed, edge = [], 0
    for member, gap in zip(members, gaps, strict=True):
        placed.append(member.place(gap + edge, choose_bottom(member, horizon, draws)))
        edge += member.columns
    return placed


def place_beside(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place objects from left to right and about level, so that none is above another; all fly or none."""
    flies = all(member.flies for member in members)
    placed = place_in_a_row([member._replace(flies=flies) for member in members], horizon, draws)
    level = max(member.bottom for member in placed)
    return [member._replace(top=max(member.top, level - CELL - member.height)) for member in placed]


def choose_bottom(member: PlacedObject, horizon: int, draws: Draws) -> int:
    """The row of cells below an object in the air, or below one that stands on the ground."""
    if member.flies:
        return draws.integer(member.rows, max(member.rows, (horizon + CELL) // CELL))
    return draws.integer(max(count_cells(horizon + STANDING), member.rows), LOWEST)


def place_above(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place the first object in the air above the second, which stands on the ground."""
    while sum(member.rows for member in members) > LOWEST:
        members = shrink_largest(members)
    flier, stander = members[0]._replace(flies=True), members[1]._replace(flies=False)
    bottom = draws.integer(max(count_cells(horizon + STANDING), flier.rows + stander.rows), LOWEST)
    column = draws.integer(0, CELLS - stander.columns)
    shift = draws.uniform(-0.35, 0.35) * stander.columns
    middle = column + (stander.columns - flier.columns) / 2 + shift
    flier_column = min(max(round(middle), 0), CELLS - flier.columns)
    highest, lowest = flier.rows, min(bottom - stander.rows, max(flier.rows, horizon // CELL))
    return [flier.place(flier_column, draws.integer(highest, lowest)), stander.place(column, bottom)]


def place_in_front(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place the first object nearer than the second, of which it hides a part; both stand on the ground."""
    front_is_left = draws.chance(0.5)
    while not (overlaps := list_overlaps(members[0], members[1], front_is_left)):
        members = shrink_largest(members)
    front, back = (member._replace(flies=False) for member in members)
    lower, shared = draws.choose(overlaps)
    highest = max(count_cells(horizon + STANDING) + lower, back.rows + lower, front.rows)
    bottom = draws.integer(highest, LOWEST)
    left, right = (front, back) if front_is_left else (back, front)
    column = draws.integer(0, CELLS - left.columns - right.columns + shared)
    columns = column, column + left.columns - shared
    front_column, back_column = columns if front_is_left else columns[::-1]
    return [front.place(front_column, bottom), back.place(back_column, bottom - lower)]


def list_overlaps(front: PlacedObject, back: PlacedObject, front_is_left: bool) -> list[tuple[int, int]]:
    """Where the front object may lie before the back one, as cells: rows by which it is lower, and columns of both.

    It hides a part of the back object's pixels from `LEAST_HIDDEN` to `LARGEST_COVER`, and if it can, its box covers at
    most `LARGEST_COVER` of the back one's. If nothing hides as much as that, it lies in the place of the largest cover.
    """
    gap = ((front.columns + back.columns) * CELL - front.width - back.width) // 2
    hidden: dict[tuple[int, int], float] = {}
    covered: dict[tuple[int, int], float] = {}
    for lower in (1, 2, 3):
        tall = min(front.height - lower * CELL, back.height)
        for shared in range(1, min(front.columns, back.columns) + 1):
            wide = shared * CELL - gap
            if wide > 2 and tall > 2:
                covered[lower, shared] = wide * tall / (back.width * back.height)
                hidden[lower, shared] = measure_hidden(front, back, lower, shared, front_is_left)
    shown = {overlap: share for overlap, share in hidden.items() if share <= LARGEST_COVER}
    visible = [overlap for overlap, share in shown.items() if share >= LEAST_HIDDEN]
    return (
        [overlap for overlap in visible if covered[overlap] <= LARGEST_COVER]
        or visible
        or [overlap for overlap, share in shown.items() if share == max(shown.values())]
    )


def measure_hidden(front: PlacedObject, back: PlacedObject, lower: int, shared: int, front_is_left: bool) -> float:
    """The part of the back object's pixels that the front one hides, `lower` rows lower and with `shared` columns."""
    left, right = (front, back) if front_is_left else (back, front)
    left, right = left.place(0, CELLS), right.place(left.columns - shared, CELLS)
    placed_front, placed_back = (left, right) if front_is_left else (right, left)
    down = placed_front.top + lower * CELL - placed_back.top
    across = placed_front.left - placed_back.left
    mask, covered = mask_of(back.sprite, back.longer), np.zeros((back.height, back.width), dtype=bool)
    rows, columns = overlap_of(down, front.height, back.height), overlap_of(across, front.width, back.width)
    shifted = slice(rows.start - down, rows.stop - down), slice(columns.start - across, columns.stop - across)
    covered[rows, columns] = mask_of(front.sprite, front.longer)[shifted]
    return float((mask & covered).sum() / mask.sum())


def overlap_of(start: int, length: int, end: int) -> slice:
    """The part of [0, end) in [start, start + length)."""
    return slice(max(start, 0), max(min(start + length, end), start, 0))

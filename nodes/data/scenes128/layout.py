"""Where the objects of a scene are: their sizes, positions and depth, so that the caption is true."""

from __future__ import annotations

from typing import NamedTuple

from guidegraph.nodes.data.scenes128.artwork import ARTWORKS, sides_of
from guidegraph.nodes.data.scenes128.content import Content, Group
from guidegraph.nodes.data.scenes128.draws import Draws
from guidegraph.nodes.data.scenes128.vocabulary import ABOVE, AIR, IN_FRONT_OF, LARGE, LEFT_OF, NORMAL, SMALL

SIZE = 128
MARGIN = 2
STANDING = 10
"""Pixels below the horizon where the feet of the farthest object are."""
LARGEST_OVERLAP = 1 / 6
LONGER_SIDES = {
    1: {SMALL: (28, 36), NORMAL: (52, 66), LARGE: (78, 90)},
    2: {SMALL: (22, 28), NORMAL: (40, 50), LARGE: (60, 68)},
    3: {SMALL: (19, 23), NORMAL: (32, 40), LARGE: (46, 52)},
    4: {NORMAL: (26, 33)},
}
"""The range of an object's longer side in pixels, by the number of objects and their size."""


class PlacedObject(NamedTuple):
    """One object in a scene: its group, artwork, mirroring, and box in pixels. `flies`: it is in the air."""

    group: int
    sprite: int
    longer: int
    flipped: bool
    left: int
    top: int
    width: int
    height: int
    flies: bool

    @property
    def bottom(self) -> int:
        """The row below the object."""
        return self.top + self.height


class Layout(NamedTuple):
    """The horizon's row, the objects from back to front, and the groups from left to right if they are in that order.

    in_order: whether every object of a group is left of every object of the next.
    """

    horizon: int
    placements: tuple[PlacedObject, ...]
    in_order: bool


def lay_out(content: Content, draws: Draws) -> Layout:
    """Place the objects of a scene: one above another, one in front of another, or side by side in any order."""
    horizon = draws.integer(46, 70)
    members = choose_members(content, draws)
    in_order = True
    if content.relation == ABOVE:
        placements = place_above(members, horizon, draws)
    elif content.relation == IN_FRONT_OF:
        placements = place_in_front(members, horizon, draws)
    else:
        in_order = content.relation == LEFT_OF or draws.chance(0.5)
        may_overlap = content.relation != LEFT_OF and len(members) > 2
        overlap = draws.uniform(0, LARGEST_OVERLAP) if may_overlap else 0.0
        placements = place_in_a_row(members if in_order else draws.shuffle(members), overlap, horizon, draws)
    depth = sorted(placements, key=lambda placement: (placement.flies, placement.bottom))
    return Layout(horizon, tuple(depth), in_order)


def choose_members(content: Content, draws: Draws) -> list[PlacedObject]:
    """The objects of all groups with their sizes, in the order of the groups, not yet placed.

    Objects of a group have one size up to 6 %, and one artwork.
    """
    total = sum(group.number for group in content.groups)
    members = []
    for number, group in enumerate(content.groups):
        low, high = LONGER_SIDES[total][group.size]
        longer = draws.uniform(low, high)
        flies = group.object in AIR and draws.chance(0.75)
        for _ in range(group.number):
            members.append(make_member(number, group, round(longer * draws.uniform(0.97, 1.03)), flies, draws))
    return members


def make_member(number: int, group: Group, longer: int, flies: bool, draws: Draws) -> PlacedObject:
    """An object of a group, at the upper left corner until it is placed."""
    sprite = ARTWORKS * group.object + group.artwork
    height, width = sides_of(sprite, longer)
    return PlacedObject(number, sprite, longer, draws.chance(0.5), 0, 0, width, height, flies)


def shrink(member: PlacedObject, factor: float) -> PlacedObject:
    """The object with its sides multiplied by `factor`."""
    longer = max(8, int(member.longer * factor))
    height, width = sides_of(member.sprite, longer)
    return member._replace(longer=longer, height=height, width=width)


def place_in_a_row(members: list[PlacedObject], overlap: float, horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place objects from left to right, those that fly in the sky.

    overlap: the part of an object's width that its right neighbour may share.
    """
    room = SIZE - 2 * MARGIN
    extent = row_width(members, overlap)
    if extent > room:
        members = [shrink(member, room / extent) for member in members]
        extent = row_width(members, overlap)
    cuts = sorted(draws.uniform(0, max(0.0, room - extent)) for _ in members)
    placed, edge = [], 0.0
    for member, gap in zip(members, cuts, strict=True):
        left = min(MARGIN + int(gap + edge), SIZE - member.width)  # shrunk widths may be rounded up
        edge += (1 - overlap) * member.width
        placed.append(member._replace(left=left, top=choose_top(member, horizon, draws)))
    return placed


def row_width(members: list[PlacedObject], overlap: float) -> float:
    """The width of objects side by side that share a part `overlap` of their widths with their right neighbours."""
    return sum(member.width for member in members) - overlap * sum(member.width for member in members[:-1])


def choose_top(member: PlacedObject, horizon: int, draws: Draws) -> int:
    """The upper row of an object in the air, or of one that stands on the ground."""
    if member.flies:
        return draws.integer(MARGIN, max(MARGIN, horizon + 8 - member.height))
    lowest = SIZE - MARGIN
    bottom = draws.integer(min(lowest, max(horizon + STANDING, member.height + MARGIN)), lowest)
    return bottom - member.height


def place_above(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place the first object in the air above the second, which stands on the ground."""
    flier, stander = members[0]._replace(flies=True), members[1]._replace(flies=False)
    room = SIZE - 3 * MARGIN
    if flier.height + stander.height > room:
        factor = room / (flier.height + stander.height)
        flier, stander = shrink(flier, factor), shrink(stander, factor)
    lowest = SIZE - MARGIN
    bottom = draws.integer(min(lowest, max(horizon + STANDING, flier.height + stander.height + 3 * MARGIN)), lowest)
    top = bottom - stander.height
    left = draws.integer(MARGIN, SIZE - MARGIN - stander.width)
    shift = draws.uniform(-0.35, 0.35) * stander.width
    middle = left + stander.width / 2 + shift
    flier_left = min(max(int(middle - flier.width / 2), MARGIN), SIZE - MARGIN - flier.width)
    flier_top = draws.integer(MARGIN, max(MARGIN, min(top - flier.height - MARGIN, horizon)))
    return [flier._replace(left=flier_left, top=flier_top), stander._replace(left=left, top=top)]


def place_in_front(members: list[PlacedObject], horizon: int, draws: Draws) -> list[PlacedObject]:
    """Place the first object nearer than the second, of which it hides up to two fifths; both stand on the ground."""
    front, back = (member._replace(flies=False) for member in members)
    overlap = draws.uniform(0.25, 0.5) * min(front.width, back.width)
    room, extent = SIZE - 2 * MARGIN, front.width + back.width - overlap
    if extent > room:
        front, back = shrink(front, room / extent), shrink(back, room / extent)
        overlap *= room / extent
    lowest = SIZE - MARGIN
    front_bottom = draws.integer(max(horizon + STANDING + 14, front.height + MARGIN, back.height + MARGIN + 8), lowest)
    highest = max(horizon + STANDING - 4, back.height + MARGIN, front_bottom - front.height * 3 // 5)
    back_bottom = draws.integer(min(highest, front_bottom - 8), front_bottom - 8)
    overlap = min(overlap, overlap_limit(front, back, front_bottom, back_bottom))
    extent = front.width + back.width - overlap
    left = MARGIN + draws.uniform(0, max(0.0, room - extent))
    front_is_left = draws.chance(0.5)
    first, second = (front, back) if front_is_left else (back, front)
    lefts = int(left), min(int(left + first.width - overlap), SIZE - second.width)
    front_left, back_left = lefts if front_is_left else lefts[::-1]
    return [
        front._replace(left=front_left, top=front_bottom - front.height),
        back._replace(left=back_left, top=back_bottom - back.height),
    ]


def overlap_limit(front: PlacedObject, back: PlacedObject, front_bottom: int, back_bottom: int) -> float:
    """The width of overlap at which the front object's box covers two fifths of the back object's."""
    top = max(front_bottom - front.height, back_bottom - back.height)
    rows = max(1, back_bottom - top)
    return 0.4 * back.width * back.height / rows

"""Captions of composed scenes: one plain form and its paraphrases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.scene_sprites import OBJECTS

SKY_PHRASES = {
    "day": ("under a day sky", "under a blue sky", "by day", "in the day"),
    "night": ("under a night sky", "under a dark sky", "at night", "in the night"),
    "sunset": ("under a sunset sky", "under an orange sky", "at sunset", "in the sunset"),
}
GROUND_PHRASES = {
    "grass": ("on grass", "on the grass", "on green grass", "on a meadow"),
    "sand": ("on sand", "on the sand", "on yellow sand", "on a beach"),
    "snow": ("on snow", "on the snow", "on white snow", "on a snow field"),
    "water": ("on water", "on the water", "on blue water", "on the sea"),
}


def with_article(name: str) -> str:
    """`name` with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def write_caption(u: NDArray[np.float64], objects: Sequence[str], sky: str, ground: str, partial: float) -> str:
    """A caption with wording chosen by the uniform numbers `u` (at least 8).

    The objects are in random order, regardless of left and right. With probability `partial`, the sky, the ground or
    both are left out.
    """
    ordered = list(objects) if u[0] < 0.5 else list(objects)[::-1]
    names = [with_article(name) for name in ordered] if u[1] < 0.75 else ordered
    joint = " and " if u[2] < 0.85 else " with " if u[2] < 0.93 else ", "
    subject = joint.join(names)
    sky_phrase = phrase(SKY_PHRASES[sky], u[3])
    ground_phrase = phrase(GROUND_PHRASES[ground], u[4])
    if u[5] < partial:
        variants = (f"{subject} {ground_phrase}", f"{subject} {sky_phrase}", subject)
        return variants[int(u[6] * 3)]
    if u[7] < 0.1:
        return f"{sky_phrase}, {subject} {ground_phrase}"
    return f"{subject} {ground_phrase} {sky_phrase}"


def phrase(phrases: Sequence[str], u: float) -> str:
    """The first phrase half of the time, one of the others otherwise."""
    return phrases[0] if u < 0.5 else phrases[1 + int((u - 0.5) * 2 * (len(phrases) - 1))]


def vocabulary() -> list[str]:
    """All words and punctuation marks of scene captions, sorted."""
    phrases_used = [text for group in (SKY_PHRASES, GROUND_PHRASES) for texts in group.values() for text in texts]
    text = " ".join([*OBJECTS, *phrases_used, "a an and with the , ."])
    return sorted(set(re.findall(r"\w+|[^\w\s]+", text.lower())))

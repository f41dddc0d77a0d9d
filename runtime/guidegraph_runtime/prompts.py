"""Prompts in which words have weights: `a (cat:1.3) on [grass]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

Fragment: TypeAlias = tuple[str, float]
"""A piece of a prompt and its weight."""

UP = 1.1
"""What one pair of round brackets multiplies a weight by; a square one divides."""

LARGEST = 1e6
"""Above it, embeddings times the weight leave the range of small floating dtypes."""

TOKEN = re.compile(
    r"""\\([\\()\[\]:])                             # an escaped sign
    | :\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)           # the weight that ends a round bracket
    | ([(\[]) | ([)\]]) | [^\\()\[\]:]+ | .          # an opening bracket, a closing one, plain text""",
    re.VERBOSE | re.DOTALL,
)


def parse(text: str) -> list[Fragment]:
    """A prompt as fragments with their weights.

    Raises ``ValueError`` that shows where brackets do not pair, and for weights that are too large.
    """
    fragments: list[Fragment] = []
    open_at: list[tuple[str, int, int]] = []  # the bracket, its place in the text, and the first fragment inside
    for found in TOKEN.finditer(text):
        escaped, weight, opening, closing = found.groups()
        if opening:
            open_at.append((opening, found.start(), len(fragments)))
        elif closing or weight:
            bracket = closing or ")"
            if not open_at or open_at[-1][0] != {")": "(", "]": "["}[bracket]:
                raise ValueError(_unpaired(text, found.end() - 1, bracket))
            _, _, first = open_at.pop()
            factor = float(weight) if weight else UP if bracket == ")" else 1 / UP
            fragments[first:] = [(part, held * factor) for part, held in fragments[first:]]
        else:
            fragments.append((escaped or found[0], 1.0))
    if open_at:
        raise ValueError(_unpaired(text, open_at[-1][1], open_at[-1][0]))
    if any(not abs(weight) <= LARGEST for _, weight in fragments):
        raise ValueError(f"the brackets of the prompt make a weight beyond {LARGEST:g}: use fewer, or smaller numbers")
    return _merged(fragments) or [("", 1.0)]


def _merged(fragments: Sequence[Fragment]) -> list[Fragment]:
    """Neighbours of one weight as one fragment, so that a prompt without weights is tokenised whole."""
    out: list[Fragment] = []
    for text, weight in fragments:
        if out and out[-1][1] == weight:
            out[-1] = (out[-1][0] + text, weight)
        else:
            out.append((text, weight))
    return out


def _unpaired(text: str, at: int, bracket: str) -> str:
    before, after = text[max(at - 20, 0) : at], text[at + 1 : at + 21]
    return (
        f"the bracket '{bracket}' at character {at + 1} has no partner: …{before}»{bracket}«{after}…; "
        f"close it, or write \\{bracket} for the bracket itself"
    )

"""Parse prompts with weighted words: `a (cat:1.3) on [grass]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

Fragment: TypeAlias = tuple[str, float]
"""A piece of a prompt and its weight."""

BRACKET_FACTOR = 1.1
"""The factor of a pair of round brackets; square brackets divide by it."""

MAX_WEIGHT = 1e6
"""Larger weights would take embeddings out of the range of small floating dtypes."""

TOKEN = re.compile(
    r"""\\([\\()\[\]:])                             # an escaped sign
    | :\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)           # the weight that ends a round bracket
    | ([(\[]) | ([)\]]) | [^\\()\[\]:]+ | .          # an opening bracket, a closing one, plain text""",
    re.VERBOSE | re.DOTALL,
)


def parse_prompt(text: str) -> list[Fragment]:
    """Parse a prompt into fragments with their weights.

    Raises ``ValueError`` with the position of an unmatched bracket, and for weights that are too large.
    """
    fragments: list[Fragment] = []
    open_brackets: list[tuple[str, int, int]] = []  # the bracket, its position, and the first fragment inside
    for match in TOKEN.finditer(text):
        escaped, weight, opening, closing = match.groups()
        if opening:
            open_brackets.append((opening, match.start(), len(fragments)))
        elif closing or weight:
            bracket = closing or ")"
            if not open_brackets or open_brackets[-1][0] != {")": "(", "]": "["}[bracket]:
                raise ValueError(_bracket_message(text, match.end() - 1, bracket))
            _, _, first = open_brackets.pop()
            factor = float(weight) if weight else BRACKET_FACTOR if bracket == ")" else 1 / BRACKET_FACTOR
            fragments[first:] = [(part, old_weight * factor) for part, old_weight in fragments[first:]]
        else:
            fragments.append((escaped or match[0], 1.0))
    if open_brackets:
        raise ValueError(_bracket_message(text, open_brackets[-1][1], open_brackets[-1][0]))
    if any(not abs(weight) <= MAX_WEIGHT for _, weight in fragments):
        raise ValueError(
            f"the brackets of the prompt make a weight beyond {MAX_WEIGHT:g}: use fewer, or smaller numbers"
        )
    return _merge(fragments) or [("", 1.0)]


def _merge(fragments: Sequence[Fragment]) -> list[Fragment]:
    """Merge adjacent fragments of equal weight, so that a prompt without weights is tokenised as one text."""
    merged: list[Fragment] = []
    for text, weight in fragments:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def _bracket_message(text: str, position: int, bracket: str) -> str:
    before, after = text[max(position - 20, 0) : position], text[position + 1 : position + 21]
    return (
        f"the bracket '{bracket}' at character {position + 1} has no partner: …{before}»{bracket}«{after}…; "
        f"close it, or write \\{bracket} for the bracket itself"
    )

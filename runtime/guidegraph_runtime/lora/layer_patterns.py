"""Patterns in peft's settings for the names of layers: regular expressions that match in a short time."""

from __future__ import annotations

import re

LONGEST_PATTERN = 1000
LONGEST_NAME = 200
"""The longest name of a layer to which a pattern is compared."""

CHOICES = 4
"""Most choices of a pattern: the time to match grows exponentially with them."""

PER_QUANTIFIER = 2
"""Choices that a quantifier counts as; `|` in a group counts as one."""

RULES = (
    r"regular expressions for the names of layers, of letters, digits, '.', '\.', '^', '$', '|', classes such as "
    rf"[0-9], groups without a quantifier, and at most {CHOICES // PER_QUANTIFIER} quantifiers, or {CHOICES} '|' in "
    "groups, or one quantifier and half as many '|'"
)

_ATOM = r"(?:\\[.dw-]|\[\^?[\w.-]+\]|[\w.-])"
_QUANTIFIER = r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})"
_TOKEN = re.compile(rf"(?P<repeated>{_ATOM}{_QUANTIFIER})|{_ATOM}|(?P<mark>\((?:\?:)?|[)^$|])")


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile the pattern that matches names of layers which end as `text` says, from the start or a dot.

    Raises ``ValueError`` for text that is not a regular expression within the rules.
    """
    if len(text) > LONGEST_PATTERN:
        raise ValueError("the pattern is too long")
    position = depth = choices = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"the pattern has {text[position]!r} in a place where it is not read")
        choices += PER_QUANTIFIER * (token["repeated"] is not None)
        mark = token["mark"] or ""
        depth += mark.startswith("(") - (mark == ")")
        if depth < 0:
            raise ValueError("the pattern closes a group that it has not opened")
        choices += mark == "|" and depth > 0
        position = token.end()
    if choices > CHOICES:
        raise ValueError("the pattern has too many quantifiers or alternatives")
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except re.error as error:
        raise ValueError(str(error)) from None

"""The names that a bundle may use, for its files and for its values."""

from __future__ import annotations

import re

MANIFEST = "bundle.json"
BATCH = "batch"
"""The axis of parts along which 1 goes with any size: what is there once serves every sample."""
CALL, FIELDS, MASKS = "call", "fixed", "honours_mask"
"""In a bundle of one call, settings of the plan's one entry: the node's id, what is no tensor in its outputs, and
whether its model heeds masks."""
MULTIPLES = "multiples"
"""In the settings of a part, what the sizes of its named axes are multiples of."""
MAX_LENGTH = 200
MAX_PARTS = 8

_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def wrong_file_name(name: str) -> str | None:
    """What is expected of the name of a file in a bundle, where `name` is none; else None.

    Relative, with `/` between its parts, each of ASCII letters, digits and `_ . + -`: so no `..`, no hidden file, no
    backslash, drive, stream, control character or second spelling of one name, and no name that Windows reserves or
    shortens. What differs in case only is for the caller to find.
    """
    parts = name.split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "the relative name of a file in the bundle, not an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "the name of a file in the bundle, not one that leaves it by '..'"
    if len(name) > MAX_LENGTH or len(parts) > MAX_PARTS:
        return f"the name of a file with at most {MAX_LENGTH} characters in {MAX_PARTS} parts"
    if not all(map(_PART.fullmatch, parts)):
        return "the name of a file, parts of letters, digits and '_ . + -' with '/' between them"
    if any(part.endswith(".") or _RESERVED.fullmatch(part) for part in parts):
        return "the name of a file that every system can hold"
    return None


def wrong_identifier(name: str) -> str | None:
    """What is expected of the name of an input or an output: as in a workflow."""
    if not name.isidentifier() or len(name) > MAX_LENGTH:
        return f"a name of letters, digits and '_' that starts with no digit, at most {MAX_LENGTH} characters"
    return None


def wrong_label(name: str) -> str | None:
    """What is expected of any other name, such as that of a tensor in a graph."""
    if not 0 < len(name) <= MAX_LENGTH or not name.isprintable():
        return f"a name of 1 to {MAX_LENGTH} printable characters"
    return None

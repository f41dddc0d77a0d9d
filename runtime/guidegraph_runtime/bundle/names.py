"""The names that a bundle may use, for its files and for its values."""

from __future__ import annotations

import re

MANIFEST = "bundle.json"
COSTS = "costs.json"
"""The file of the measured costs of the parts' calls, which the manifest does not list."""
ADAPTABLE_TABLE = "lora.json"
"""The file that lists, for each part, the weights that LoRA can change, with the layer names of LoRA files."""
TABLES = "tables.safetensors"
"""The arrays that a plan reads."""
BATCH = "batch"
"""The batch axis of parts, along which a size of 1 is broadcast."""
CALL, FIELDS, MASKS = "call", "fixed", "honours_mask"
"""Settings of the single operation in the plan of a one-node bundle: the node's id, the outputs that are not tensors,
and whether its model uses masks."""
MULTIPLES = "multiples"
"""A setting of a part: the factors of which the sizes of its named axes must be multiples."""
RANGES = "ranges"
"""A setting of a part: the bounds of the numbers of its inputs, by name."""
JOINS = "joins"
"""A setting of a part in a loop: how its calls in several runs become one call, or why they do not ("why").

indices: the axis of the tables whose entries an integer value counts, by value. padded: the axes along which zeros
change nothing, since a mask marks them."""
MAX_LENGTH = 200
MAX_PARTS = 8

_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def file_name_problem(name: str) -> str | None:
    """The expected form if `name` is not a valid file name in a bundle; else None.

    Valid names are relative, with `/` between parts of ASCII letters, digits and `_ . + -`. That excludes `..`, hidden
    files, backslashes, drives, streams, control characters, second spellings of a name, and names that Windows reserves
    or shortens. The caller checks for names that differ only in case.
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


def identifier_problem(name: str) -> str | None:
    """The expected form if `name` is not a valid name of an input or output (as in a workflow); else None."""
    if not name.isidentifier() or len(name) > MAX_LENGTH:
        return f"a name of letters, digits and '_' that starts with no digit, at most {MAX_LENGTH} characters"
    return None


def label_problem(name: str) -> str | None:
    """The expected form if `name` is not valid as any other name, such as a tensor's in a graph; else None."""
    if not 0 < len(name) <= MAX_LENGTH or not name.isprintable():
        return f"a name of 1 to {MAX_LENGTH} printable characters"
    return None

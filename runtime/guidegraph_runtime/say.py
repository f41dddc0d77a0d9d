"""Lines for a person or a program: results on stdout, everything else on stderr.

Texts come from strangers: names, prompts and help of a workflow or a bundle. A control character among them could
move the cursor, recolour or retitle a terminal, and a bidirectional override could show a name in another order. All
lines go through ``visible`` or ``visible_json``, which show such characters as escapes.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f"  # C0, but for tab and newline
    "\x7f-\x9f"  # delete and C1
    # Zero width, and what sets the direction of writing.
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8
    "\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
    "]"
)
_BREAKS = re.compile("[\t\n]")


def visible(text: str) -> str:
    r"""A text with control, zero-width and bidirectional characters as escapes (``\x1b``); tabs and newlines stay."""
    return _UNSEEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same on one line: tabs and newlines are escapes too."""
    return _BREAKS.sub(_escape, visible(text))


def visible_json(text: str) -> str:
    """The same for a JSON text, which stays valid and keeps its values."""
    return _UNSEEN.sub(_escape_in_json, text)


def out(text: str) -> None:
    """A line of a result; nothing where stdout was closed before we began."""
    _print(visible(text))


def out_json(value: object) -> None:
    """A line of JSON."""
    _print(visible_json(json.dumps(value)))


def note(text: str) -> None:
    """A line beside the result. One that cannot be read, on a full disk say, is lost."""
    with suppress(OSError, ValueError, AttributeError):  # there is no stderr where it was closed before we began
        sys.stderr.write(f"{visible(text)}\n")
        sys.stderr.flush()


def _print(line: str) -> None:
    if sys.stdout is not None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _escape_in_json(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else r"\u007f"

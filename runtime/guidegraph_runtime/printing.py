"""Print lines to the terminal: results on stdout, everything else on stderr.

Names, prompts and help texts come from untrusted workflows and bundles. A control character in them could move the
cursor, recolour or retitle a terminal, and a bidirectional override could reorder a name. Every line therefore goes
through ``visible`` or ``visible_json``, which escape such characters.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f"  # C0 except tab and newline
    "\x7f-\x9f"  # delete and C1
    # Zero-width characters and those that set the writing direction.
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff"  # bytes of a file name that are not UTF-8
    "\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
    "]"
)
_BREAKS = re.compile("[\t\n]")


def visible(text: str) -> str:
    r"""Escape control, zero-width and bidirectional characters (``\x1b``); tabs and newlines stay."""
    return _UNSEEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same as `visible`, with tabs and newlines escaped too."""
    return _BREAKS.sub(_escape, visible(text))


def visible_json(text: str) -> str:
    """The same as `visible` for JSON text, which stays valid and keeps its values."""
    return _UNSEEN.sub(_escape_in_json, text)


def show_count(count: int, noun: str) -> str:
    """A number with its noun: ``1 cell``, ``2 cells``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def print_line(text: str) -> None:
    """Print a line of a result to stdout; do nothing if stdout was closed before the start."""
    _print(visible(text))


def print_json(value: object) -> None:
    """Print a value as a line of JSON."""
    _print(visible_json(json.dumps(value)))


def print_note(text: str) -> None:
    """Print a line to stderr. A line that cannot be written (on a full disk, for example) is lost."""
    with suppress(OSError, ValueError, AttributeError):  # stderr may have been closed before the start
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

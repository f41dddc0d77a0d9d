"""The one error of the runtime: where it is, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80


class BundleError(Exception):
    """A bundle, or what was asked of it, is wrong: nothing was run. `where` is a file; `path` a place inside of it.

    The text is one line that no terminal takes for more than text, whatever names a bundle has.
    """

    def __init__(self, where: str, code: str, message: str, path: str = ""):
        self.where, self.code, self.message, self.path = where, code, message, path
        super().__init__(_printable(f"{where}: {code}: {message}{f' [{path}]' if path else ''}"))


def shown(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f"'{_printable(text)}'" if isinstance(value, str) else text


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def one_of(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest one that exists, and some of them."""
    names = list(known)
    close = difflib.get_close_matches(name[:_SHOWN], names[:300], n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    return f"{guess}there is: {', '.join(names[:20]) or 'nothing'}{more}"

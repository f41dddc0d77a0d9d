"""The one error of the runtime: where it is, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80


class BundleError(Exception):
    """A bundle, or what was asked of it, is wrong: nothing was run. `where` is a file; `path` a place inside of it."""

    def __init__(self, where: str, code: str, message: str, path: str = ""):
        self.where, self.code, self.message, self.path = where, code, message, path
        super().__init__(f"{where}: {code}: {message}{f' [{path}]' if path else ''}")


def shown(value: object) -> str:
    """A value as a message shows it: on one line, cut where it is long."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return f"'{text}'" if isinstance(value, str) else text


def one_of(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest one that exists, and some of them."""
    names = list(known)
    close = difflib.get_close_matches(name[:_SHOWN], names[:300], n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    return f"{guess}there is: {', '.join(names[:20]) or 'nothing'}{more}"

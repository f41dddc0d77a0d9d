"""The runtime's errors: the location, the expected and the actual value, and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_LENGTH = 80


class BundleError(Exception):
    """A bundle, or a request to it, is invalid. `where` is a file or an option; `path` is a location in the file.

    `param` is the input of the bundle whose value is wrong, or the override ``node.setting``, if it is one. The text is
    a single printable line, whatever names a bundle contains.
    """

    def __init__(self, location: str, code: str, message: str, path: str = "", param: str | None = None):
        self.where, self.code, self.message, self.path, self.param = location, code, message, path, param
        super().__init__(_printable(f"{location}: {code}: {message}{f' [{path}]' if path else ''}"))


class SettingError(ValueError):
    """A setting or a port has a wrong value. ``setting`` is its name."""

    def __init__(self, setting: str, message: str):
        self.setting = setting
        super().__init__(message)


def format_value(value: object) -> str:
    """Format a value for a message, truncated if long."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
    return f"'{_printable(text)}'" if isinstance(value, str) else text


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def suggest_name(name: str, valid_names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest valid name, and a list of valid names."""
    names = list(valid_names)
    matches = difflib.get_close_matches(name[:_MAX_LENGTH], names[:300], n=1)
    guess = f"did you mean '{matches[0]}'? " if matches else ""
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    return f"{guess}there is: {', '.join(names[:20]) or 'nothing'}{more}"

"""The text and the causes of exceptions from untrusted code."""

from __future__ import annotations

_LONGEST = 4000
_LINKS = 64


def error_text(error: BaseException) -> str:
    """The text of an exception, truncated if long; "" if it has none.

    Describes an exception whose ``__str__`` raises, recurses or does not return a string. Raises nothing.
    """
    try:
        text = str.__str__(str(error))  # a plain string, also if `__str__` returns a subclass of str
    except BaseException as failure:  # even an exit raised by its `__str__` concerns only this text
        return f"(its text cannot be shown: its __str__ raised {type(failure).__name__})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def describe_error(error: BaseException) -> str:
    """The class of an exception and its text, if it has one."""
    text = error_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def list_causes(error: BaseException) -> list[BaseException]:
    """An exception and its causes, outermost first. A cycle of causes is cut."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(chain) < _LINKS and not any(current is cause for cause in chain):
        chain.append(current)
        current = current.__cause__
    return chain

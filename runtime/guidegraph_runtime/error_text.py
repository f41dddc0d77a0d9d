"""What an exception of unknown code says, whatever that code does."""

from __future__ import annotations

_LONGEST = 4000
_LINKS = 64


def error_text(error: BaseException) -> str:
    """The text of an exception, cut where it is long; "" where it has none.

    An exception whose ``__str__`` raises, recurses or returns no string is described instead. Raises nothing.
    """
    try:
        text = str.__str__(str(error))  # a plain string also where `__str__` gives a subclass with methods of its own
    except BaseException as failure:  # whatever its `__str__` raises, an exit included, is about this text alone
        return f"(its text cannot be shown: its __str__ raised {type(failure).__name__})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def describe_error(error: BaseException) -> str:
    """The class of an exception and its text, if it has one."""
    text = error_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def causes(error: BaseException) -> list[BaseException]:
    """An exception and what caused it, outermost first. A cause that leads back to itself is listed once."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < _LINKS and not any(link is known for known in chain):
        chain.append(link)
        link = link.__cause__
    return chain

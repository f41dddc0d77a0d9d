"""The outcomes of a check other than success."""

from __future__ import annotations


class Nonconforming(AssertionError):
    """A node violates its contract. The message says what was expected, what was found and what to do."""

    def __init__(self, node: str, expected: str, found: str, remedy: str):
        super().__init__(f"{node}: expected {expected}\n  found: {found}\n  to do: {remedy}")
        self.expected, self.found, self.remedy = expected, found, remedy


class NoExample(Nonconforming):
    """No example value exists for a port or a setting of the node."""


class Inapplicable(Exception):
    """A check does not apply to this node; the message is the reason."""

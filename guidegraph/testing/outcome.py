"""The outcomes of a check other than success."""

from __future__ import annotations


class Nonconforming(AssertionError):
    """A node violates its contract. The message gives the expectation, the actual result and the remedy."""

    def __init__(self, node: str, expected: str, actual: str, remedy: str):
        super().__init__(f"{node}: expected {expected}\n  found: {actual}\n  to do: {remedy}")
        self.expected, self.found, self.remedy = expected, actual, remedy


class NoExample(Nonconforming):
    """No example value exists for a port or a setting of the node."""


class Inapplicable(Exception):
    """A check does not apply to this node; the message is the reason."""

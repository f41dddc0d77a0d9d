"""What a check can say beside "it holds"."""

from __future__ import annotations


class Nonconforming(AssertionError):
    """A node does not do what its contract says. The message tells what was expected, what was found and what to do."""

    def __init__(self, node: str, expected: str, found: str, remedy: str):
        super().__init__(f"{node}: expected {expected}\n  found: {found}\n  to do: {remedy}")
        self.expected, self.found, self.remedy = expected, found, remedy


class NoExample(Nonconforming):
    """There is no example value for a port or a setting of the node."""


class Inapplicable(Exception):
    """A check says nothing of this node; the message is the reason."""

"""Stands for a part that cannot be used, and says why when it is."""

from __future__ import annotations

from typing import Any

from guidegraph.nodes.model import MissingPart


class Unavailable:
    """A part of a checkpoint that is there, but needs something more: any use of it says what."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __repr__(self) -> str:
        return self._message

    def __call__(self, *_: object, **__: object) -> Any:
        raise MissingPart(self._message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise MissingPart(self._message)

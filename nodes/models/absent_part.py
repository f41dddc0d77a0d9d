"""What stands for a part of a model that its folder or file does not hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


class MissingPart(AttributeError, ValueError):
    """Raised on use of a part that a model folder does not hold."""


class AbsentPart:
    """Stands for a part that a model lacks, or cannot load without another setting. Any use raises the message."""

    __guidegraph_absent__ = True

    def __init__(self, message: str) -> None:
        self._message = message

    @classmethod
    def of(cls, folder: Path, part: str, parts: Iterable[str]) -> AbsentPart:
        """Stands for a part that a model folder or file does not hold."""
        return cls(f"the model '{folder}' has no part '{part}'; it has {', '.join(parts) or 'none'}")

    def __repr__(self) -> str:
        return self._message

    def __call__(self, *_: object, **__: object) -> Any:
        raise MissingPart(self._message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise MissingPart(self._message)

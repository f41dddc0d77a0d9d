"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guidegraph.graph import events


@dataclass
class RunResult:
    """Outputs by name; digests, seconds and origins by the path of each operation that was needed."""

    outputs: dict[str, Any]
    digests: dict[str, str]
    seconds: dict[str, float]
    origins: dict[str, events.Origin]

"""The steps of a loop."""

from __future__ import annotations

from guidegraph_runtime.checks import check_int
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count


@operation("steps.is_due", output_help="for a choice")
def is_due(index: int, *, every: Count = 2) -> bool:
    """Whether a step is one of those that come every n steps, from the first: 0, n, 2n, …

    index: of the step, with loop.index wired to it. every: n; 1 is every step. Raises an error for an index below 0.
    """
    return check_int("index", index, low=0) % every == 0

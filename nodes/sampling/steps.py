"""The steps of a loop."""

from __future__ import annotations

from collections.abc import Callable

from guidegraph.nodes.derive import node_from_operation

is_due: Callable[..., bool] = node_from_operation("steps.is_due", __name__)

"""How one check is run. Nothing here imports torch before a check is run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from guidegraph.testing.applicable import why_inapplicable
from guidegraph.testing.case import NodeCase
from guidegraph.testing.catalogue import CHECKS
from guidegraph.testing.outcome import Inapplicable

_HOME = "guidegraph.testing.checks"


def run_check(case: NodeCase, name: str) -> None:
    """Run one check. Raises ``Nonconforming`` where it does not hold, ``Inapplicable`` where it says nothing."""
    if reason := why_inapplicable(case, name):
        raise Inapplicable(reason)
    module, function = CHECKS[name]
    check: Callable[[NodeCase], None] = getattr(import_module(f"{_HOME}.{module}"), function)
    check(case)

"""Run one check. torch is not imported before that."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from guidegraph_testing.applicable import why_inapplicable
from guidegraph_testing.case import Inapplicable, NodeCase
from guidegraph_testing.catalogue import CHECKS

_HOME = "guidegraph_testing.checks"


def run_check(case: NodeCase, name: str) -> None:
    """Run one check. Raises ``Nonconforming`` if it fails, ``Inapplicable`` if it does not apply."""
    if reason := why_inapplicable(case, name):
        raise Inapplicable(reason)
    module, function = CHECKS[name]
    check: Callable[[NodeCase], None] = getattr(import_module(f"{_HOME}.{module}"), function)
    check(case)

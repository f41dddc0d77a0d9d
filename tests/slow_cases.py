"""Cases of a test of which only some run in CI."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mark_slow(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """The cases as parameters of a test, where those that are not quick are slow. A case of several values is a tuple.

    Raises ``ValueError`` for a quick case that is not among the cases.
    """
    known = list(cases)
    if strangers := [case for case in quick if case not in known]:
        raise ValueError(f"expected quick cases among {known}; found {strangers}")
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in known
    ]

"""The checks by name, and how one is run. Nothing here imports torch before a check is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from guidegraph.testing.outcome import Inapplicable

if TYPE_CHECKING:
    from guidegraph.testing.case import NodeCase

_HOME = "guidegraph.testing.checks"

CHECKS: Mapping[str, tuple[str, str]] = {
    "docs": ("docs", "check_docs"),
    "types": ("results", "check_types"),
    "shapes": ("results", "check_shapes"),
    "dtypes": ("dtypes", "check_dtypes"),
    "batch invariance": ("batch", "check_batch_invariance"),
    "determinism": ("repeat", "check_determinism"),
    "inputs unchanged": ("repeat", "check_inputs_unchanged"),
    "device independence": ("device", "check_device_independence"),
    "gradients": ("gradients", "check_gradients"),
    "identity": ("traits", "check_identity"),
    "needs": ("traits", "check_needs"),
    "ONNX export": ("onnx", "check_onnx_export"),
}
"""Module and function of each check, in the order in which they are run."""


def run_check(case: NodeCase, name: str) -> None:
    """Run one check. Raises ``Nonconforming`` where it does not hold, ``Inapplicable`` where it says nothing."""
    if name in case.skip:
        raise Inapplicable(f"by design: {case.skip[name]}")
    module, function = CHECKS[name]
    check: Callable[[NodeCase], None] = getattr(import_module(f"{_HOME}.{module}"), function)
    check(case)

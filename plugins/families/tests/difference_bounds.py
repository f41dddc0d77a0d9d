"""Differences from diffusers: asserts bounds on them, and records them for `tools/checkpoint_table.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

FILE = "GUIDEGRAPH_FIGURES"
"""The environment variable with the file that figures are added to; without it they are only asserted."""


def largest(actual: Tensor, expected: Tensor, bound: float, quantity: str) -> None:
    """Assert that two tensors differ nowhere by more than the bound."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)
    keep(quantity, float((actual - expected).abs().max()), bound)


def relative(actual: Tensor, expected: Tensor, bound: float, quantity: str) -> None:
    """Assert that two tensors differ by no more than the bound, in the norm and relative to it; neither is constant."""
    assert actual.shape == expected.shape
    assert expected.std() > 0.1
    distance = float(torch.dist(actual, expected) / expected.norm())
    assert distance < bound
    keep(quantity, distance, bound)


def keep(quantity: str, value: float, bound: float) -> None:
    """Add a figure to the file, under the name of the test that runs."""
    if path := os.environ.get(FILE):
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)").partition("::")[2]
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "what": quantity, "value": value, "bound": bound}) + "\n")

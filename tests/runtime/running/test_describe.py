"""The listing of a bundle's inputs says which values fit."""

from __future__ import annotations

from typing import Any

import pytest

from guidegraph_runtime.bundle.manifest import read_manifest
from guidegraph_runtime.running.describe import describe_bundle
from tests.runtime.running.bundles import manifest_value, seal_manifest


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"type": "int", "default": 2}, "  k  int, default 2"),
        ({"type": "int", "default": 2, "optional": True}, "  k  int or null, default 2"),
        ({"type": "int", "default": None}, "  k  int or null, default null"),
        ({"type": "str", "default": "a", "many": True, "optional": True}, '  k  str or list or null, default "a"'),
        ({"type": "str", "required": True, "many": True}, "  k  str or list, required"),
        ({"type": "float", "required": True, "bounds": {"below": 9}}, "  k  float, required, below 9"),
        (
            {"type": "int", "default": 2, "many": True, "bounds": {"low": 0, "high": 9}},
            "  k  int or list, default 2, of at least 0 and at most 9",
        ),
    ],
)
def test_lists_null_and_bounds_are_named(spec: dict[str, Any], line: str) -> None:
    value = manifest_value() | {"inputs": {"k": spec}, "parts": {}, "plan": []}
    del value["reference"]
    assert line in describe_bundle(read_manifest(seal_manifest(value)), "0", []).splitlines()

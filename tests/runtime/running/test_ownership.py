"""A bundle's outputs belong to the caller, and inputs are read once: the next run gives the same values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.running.inputs import load_value, resolve_inputs
from tests.runtime.running.bundles import write_bundle
from tests.runtime.running.loop_bundle import write_loop_bundle

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def passing(root: Path, start: str, tables: bytes | None = None) -> Bundle:
    """A bundle whose output `last` is a value that it starts with: its loop runs no times."""

    def change(value: dict[str, Any]) -> None:
        value["plan"][0]["in"] = {"x": start}
        value["plan"][0]["with"]["over"] = 0
        value["outputs"]["last"] = {"type": "tensor", "source": "last"}
        if tables is not None:
            (root / "tables.safetensors").write_bytes(tables)
            value["files"]["tables.safetensors"] = {
                "sha256": hashlib.sha256(tables).hexdigest(),
                "size": len(tables),
            }

    return Bundle(write_bundle(root, change=change), SessionSettings.on("cpu"))


def test_a_returned_array_is_the_callers(tmp_path: Path) -> None:
    bundle = Bundle(write_loop_bundle(tmp_path / "b", collect=True), SessionSettings.on("cpu"))
    first = bundle.run()
    expected = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array.fill(9)
    again = bundle.run()
    assert all(np.array_equal(again[name], expected[name]) for name in expected)
    assert all(array.flags.writeable and array.flags.owndata for array in again.values())


def test_a_parameter_that_is_an_output_is_not_the_callers_array(tmp_path: Path) -> None:
    argument = X.copy()
    bundle = passing(tmp_path, "params.x")
    bundle.run(x=argument)["last"].fill(9)
    assert np.array_equal(argument, X)
    assert np.array_equal(bundle.run(x=argument)["last"], X)


def test_changes_of_arrays_in_on_output_do_not_affect_the_run(tmp_path: Path) -> None:
    argument = X.copy()
    bundle = passing(tmp_path, "params.x")
    plain = bundle.run(x=X)["total"]

    def spoil(name: str, array: NDArray[Any]) -> None:
        if name == "last":
            argument.fill(9)
            array.fill(9)

    assert np.array_equal(bundle.run_with({"x": argument}, on_output=spoil)["total"], plain)


def test_the_constants_of_a_bundle_are_not_given_out(tmp_path: Path) -> None:
    bundle = passing(tmp_path, "table", save({"table": X}))
    first = bundle.run(x=X)["last"]
    assert np.array_equal(first, X)
    first.fill(9)
    assert np.array_equal(bundle.run(x=X)["last"], X)


def test_an_observer_is_told_copies(tmp_path: Path) -> None:
    bundle = Bundle(write_loop_bundle(tmp_path / "b"), SessionSettings.on("cpu"))

    def spoil(part: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        for array in (*inputs.values(), *outputs.values()):
            array[...] = 0

    assert np.array_equal(bundle.run_with({}, observer=spoil)["image"], bundle.run()["image"])


def test_lists_are_copies(tmp_path: Path) -> None:
    spec = Input("str", default=["a", "b"], many=True)
    load_value(spec, spec.default, lambda _: b"").append("c")
    assert spec.default == ["a", "b"]
    mine = ["x", "y"]
    manifest = replace(open_bundle(write_bundle(tmp_path)).manifest, inputs={"names": spec})
    for params in ({"names": mine}, {}):
        resolve_inputs(manifest, params, "here", lambda _: b"")["names"].append("z")
    assert (mine, spec.default) == (["x", "y"], ["a", "b"])

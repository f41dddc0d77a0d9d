"""Weights beside the graphs of a bundle: each stored once, and the graphs compute as with them inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from guidegraph.graph.export.bundle import save_graphs
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph_runtime.bundle.onnx_graph import read_graph
from guidegraph_runtime.sessions.sessions import SessionSettings, create_session

Array = NDArray[np.float32]
RANDOM = np.random.default_rng(0)
SHARED, FIRST, SECOND = (RANDOM.standard_normal(512).astype(np.float32) for _ in range(3))
SMALL = np.ones(8, dtype=np.float32)


def adding(weights: Mapping[str, Array]) -> onnx_ir.Model:
    """A model that returns the sum of its weights, (512), as `y` from a number `x` that it adds, too."""
    number = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ())
    values = [onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name)) for name, array in weights.items()]
    nodes, total = [], number
    for i, value in enumerate(values):
        nodes.append(onnx_ir.node("Add", [total, value]))
        total = nodes[-1].outputs[0]
        total.name = f"sum{i}"
    total.name, total.dtype, total.shape = "y", onnx_ir.DataType.FLOAT, onnx_ir.Shape(["n"])
    graph = onnx_ir.Graph([number], [total], nodes=nodes, initializers=values, opset_imports={"": OPSET}, name="main")
    return onnx_ir.Model(graph, ir_version=10)


def run(folder: Path, name: str, files: tuple[str, ...]) -> Array:
    data = {file: (folder / file).read_bytes() for file in files}
    session = create_session(name, (folder / f"{name}.onnx").read_bytes(), data, SessionSettings.on("cpu"))
    (result,) = session.run(None, {"x": np.array(1, dtype=np.float32)})
    return np.asarray(result)


def test_weights_that_several_graphs_have_are_stored_once(tmp_path: Path) -> None:
    models = {
        "first": adding({"a": SHARED, "b": FIRST}),
        "second": adding({"c": SECOND, "d": SHARED, "e": SHARED.copy()}),
        "third": adding({"f": SMALL}),
    }
    files = save_graphs(models, tmp_path)
    (common,) = {*files["first"]} & {*files["second"]}
    assert {*files["first"]} == {common, "first.onnx.data"}
    assert {*files["second"]} == {common, "second.onnx.data"}
    assert files["third"] == ()
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.data")}
    assert sizes == {common: SHARED.nbytes, "first.onnx.data": FIRST.nbytes, "second.onnx.data": SECOND.nbytes}
    assert np.array_equal(run(tmp_path, "first", files["first"]), 1 + SHARED + FIRST)
    assert np.array_equal(run(tmp_path, "second", files["second"]), 1 + SECOND + SHARED + SHARED)
    assert np.array_equal(run(tmp_path, "third", ()), 1 + SMALL)
    # The models are as before, so that they can be saved again.
    assert np.array_equal(models["first"].graph.initializers["a"].const_value.numpy(), SHARED)  # type: ignore[union-attr]


def test_a_file_of_shared_weights_is_named_by_its_contents(tmp_path: Path) -> None:
    names = []
    for number, weight in enumerate((SHARED, SHARED, FIRST)):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = save_graphs({"a": adding({"w": weight}), "b": adding({"w": weight})}, folder)
        names.append(files["a"])
    assert names[0] == names[1] != names[2]


def test_weights_of_one_size_and_other_contents_are_kept_apart(tmp_path: Path) -> None:
    files = save_graphs({"a": adding({"v": FIRST, "w": SECOND}), "b": adding({"w": SHARED})}, tmp_path)
    assert files == {"a": ("a.onnx.data",), "b": ("b.onnx.data",)}
    assert [tensor.offset for tensor in read_graph((tmp_path / "a.onnx").read_bytes()).externals] == [0, FIRST.nbytes]
    assert np.array_equal(run(tmp_path, "a", files["a"]), 1 + FIRST + SECOND)

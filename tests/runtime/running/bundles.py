"""Bundles of tiny ONNX graphs for the tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper

from guidegraph_runtime.bundle.manifest import seal

FLOAT = TensorProto.FLOAT
OPSET = 20
WEIGHTS = np.arange(4, dtype=np.float32)


def external(
    name: str, location: str, dims: Sequence[int], offset: int | str = 0, length: int | None = None
) -> TensorProto:
    """A float32 tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    tensor.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in entries.items())
    return tensor


def inline_tensor(name: str, values: Any) -> TensorProto:
    array = np.asarray(values, np.float32)
    return helper.make_tensor(name, FLOAT, array.shape, array.tobytes(), raw=True)


def model(graph: GraphProto, opsets: Mapping[str, int] | None = None, functions: Sequence[Any] = ()) -> ModelProto:
    sets = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": OPSET}).items()]
    return helper.make_model(graph, opset_imports=sets, ir_version=10, functions=list(functions), producer_name="t")


def step_graph(nodes: Sequence[NodeProto] | None = None, weights: TensorProto | None = None) -> GraphProto:
    """y = x · scale + w: x and y of shape (batch, 4), scale 0-d, w of shape (4)."""
    default = [helper.make_node("Mul", ["x", "scale"], ["scaled"]), helper.make_node("Add", ["scaled", "w"], ["y"])]
    return helper.make_graph(
        list(nodes or default),
        "step",
        [
            helper.make_tensor_value_info("x", FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("scale", FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4])],
        [weights or external("w", "step.onnx.data", [4], length=16)],
    )


def total_graph() -> GraphProto:
    """out, 0-d: the sum of y."""
    return helper.make_graph(
        [helper.make_node("ReduceSum", ["y"], ["out"], keepdims=0)],
        "total",
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("out", FLOAT, [])],
    )


def in_body(node: NodeProto, initializers: Sequence[TensorProto] = ()) -> NodeProto:
    """A node If whose branches hold `node`, which makes the value 'y'."""
    branch = helper.make_graph(
        [node], "branch", [], [helper.make_tensor_value_info("y", FLOAT, ["batch", 4])], list(initializers)
    )
    branching = helper.make_node("If", ["condition"], ["y"])
    for name in ("then_branch", "else_branch"):
        branching.attribute.append(AttributeProto(name=name, type=AttributeProto.GRAPH, g=branch))
    return branching


def manifest_value() -> dict[str, Any]:
    """`bundle.json` of the bundle that `write_bundle` writes, but for its files."""
    row = {"name": "y", "dtype": "float32", "dims": ["batch", 4]}
    return {
        "format": "guidegraph-bundle",
        "version": 1,
        "name": "tiny",
        "workflow": "guidegraph: 1\n",
        "inputs": {
            "scale": {"type": "float", "default": 1.5, "help": "how much"},
            "x": {"type": "tensor", "required": True, "dtype": "float32", "dims": ["batch", 4]},
        },
        "outputs": {"total": {"type": "tensor", "source": "out"}},
        "parts": {
            "step": {
                "file": "parts/step.onnx",
                "inputs": [{**row, "name": "x"}, {"name": "scale", "dtype": "float32", "dims": []}],
                "outputs": [row],
                "externals": ["parts/step.onnx.data"],
                "opsets": {"": OPSET},
            },
            "total": {
                "file": "parts/total.onnx",
                "inputs": [row],
                "outputs": [{"name": "out", "dtype": "float32", "dims": []}],
                "externals": [],
                "opsets": {"": OPSET},
            },
        },
        "plan": [
            {
                "op": "loop",
                "node": "sample",
                "in": {"x": "params.x"},
                "with": {"over": 2, "next": {"x": "y"}, "result": {"last": "x"}},
                "out": ["last"],
                "body": [
                    {
                        "op": "part",
                        "node": "step",
                        "in": {"x": "x", "scale": "params.scale"},
                        "with": {},
                        "out": ["y"],
                    }
                ],
            },
            {"op": "part", "node": "total", "in": {"y": "last"}, "with": {}, "out": ["out"]},
        ],
        "files": {},
        "versions": {"guidegraph": "0.1.0"},
        "requires": {"opset": OPSET, "providers": []},
        "fixed": {"model": "it is a file that the graphs were made of"},
        "reference": {"inputs": {"scale": 2.0}, "outputs": {"total": "reference/total.bin"}, "tolerance": 1e-6},
    }


def write_bundle(
    root: Path,
    step: ModelProto | bytes | None = None,
    weights: bytes = WEIGHTS.tobytes(),
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """A bundle of two parts, one with its weights beside it; `change` edits `bundle.json` before it is written."""
    step = model(step_graph()) if step is None else step
    files = {
        "parts/step.onnx": step if isinstance(step, bytes) else step.SerializeToString(),
        "parts/step.onnx.data": weights,
        "parts/total.onnx": model(total_graph()).SerializeToString(),
        "reference/total.bin": b"\0" * 4,
        "tokenizer/tokenizer.json": b"{}",
    }
    value = manifest_value()
    for name, data in files.items():
        value["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    if change is not None:
        change(value)
    (root / "bundle.json").write_bytes(seal_manifest(value))
    return root


def seal_manifest(value: Mapping[str, Any]) -> bytes:
    """`bundle.json` with the digest that its other fields ask for."""
    return seal(json.dumps({**value, "digest": "0" * 64}, indent=1).encode())

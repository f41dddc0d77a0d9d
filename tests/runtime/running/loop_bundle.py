"""A bundle that draws as the exported ones do: encode, a loop with a table, times and fresh noise, decode."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from tests.runtime.running.bundles import OPSET, inline_tensor, model, seal_manifest

DTYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64}
X = ("float32", ["batch", 2, "height", "width"])
SLOTS = ("float32", [4, "batch", 2, "height", "width"])
Ports = dict[str, tuple[str, list[Any]]]

ENCODE: tuple[Ports, Ports] = {"params.level": ("float32", [])}, {"condition": ("float32", [1, 2])}
LABELS: tuple[Ports, Ports] = {"label": ("int64", ["batch"])}, {"condition": ("float32", ["batch", 2])}
STEP: tuple[Ports, Ports] = (
    {
        "x": X,
        "t": ("float32", ["batch"]),
        "condition": ("float32", ["batch", 2]),
        "params.scale": ("float32", []),
        "scheduler.scheduler.alpha": ("float64", ["rows"]),
        "index": ("int64", [1]),
        "slots": SLOTS,
        "fresh": X,
    },
    {"step.x": X, "step.index": ("int64", [1]), "step.slots": SLOTS},
)
JOINS: dict[str, Any] = {"indices": {"index": "rows", "step.index": "rows"}}
JOINED_STEP: tuple[Ports, Ports] = (
    STEP[0] | {"params.scale": ("float32", ["batch"]), "index": ("int64", ["batch"])},
    STEP[1] | {"step.index": ("int64", ["batch"])},
)
"""The ports of a step that takes a scale and a row for each sample."""

DECODE: tuple[Ports, Ports] = {"last": X}, {"image": ("float32", ["batch", 2, "2*height", "width"])}
PICTURE: tuple[Ports, Ports] = {"last": X}, {"image": ("float32", ["batch", 3, "height", "width"])}


def encode_graph() -> GraphProto:
    """condition = level · (1, 2)."""
    nodes = [helper.make_node("Mul", ["params.level", "row"], ["condition"])]
    return _graph("encode", nodes, ENCODE, [inline_tensor("row", [[1.0, 2.0]])])


def label_graph() -> GraphProto:
    """condition = label · (1, 2), one row for each label."""
    nodes = [
        helper.make_node("Cast", ["label"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["number", "column"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "row"], ["condition"]),
    ]
    column = helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1])
    return _graph("encode", nodes, LABELS, [column, inline_tensor("row", [[1.0, 2.0]])])


def step_graph(ports: tuple[Ports, Ports] = STEP) -> GraphProto:
    """x' = (x + t condition / 1000) scale α[index] + fresh / 10 + slots[0] / 10; slots' = slots / 2 + x'."""
    node = helper.make_node
    nodes = [
        node("Gather", ["scheduler.scheduler.alpha", "index"], ["alpha64"]),
        node("Cast", ["alpha64"], ["alpha"], to=TensorProto.FLOAT),
        node("Reshape", ["t", "column"], ["times"]),
        node("Mul", ["times", "condition"], ["push"]),
        node("Mul", ["push", "thousandth"], ["small"]),
        node("Unsqueeze", ["small", "last axes"], ["pushed"]),
        node("Add", ["x", "pushed"], ["moved"]),
        node("Reshape", ["params.scale", "sample axes"], ["scale"]),
        node("Reshape", ["alpha", "sample axes"], ["alphas"]),
        node("Mul", ["moved", "scale"], ["scaled"]),
        node("Mul", ["scaled", "alphas"], ["weighted"]),
        node("Gather", ["slots", "zero"], ["slot"], axis=0),
        node("Add", ["slot", "fresh"], ["both"]),
        node("Mul", ["both", "tenth"], ["added"]),
        node("Add", ["weighted", "added"], ["step.x"]),
        node("Mul", ["slots", "half"], ["halved"]),
        node("Add", ["halved", "step.x"], ["step.slots"]),
        node("Add", ["index", "one"], ["step.index"]),
    ]
    integers = [
        helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
        helper.make_tensor("last axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("sample axes", TensorProto.INT64, [4], [-1, 1, 1, 1]),
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    parts = [inline_tensor("thousandth", 0.001), inline_tensor("tenth", 0.1), inline_tensor("half", 0.5)]
    return _graph("step", nodes, ports, [*integers, *parts])


def decode_graph() -> GraphProto:
    """image: x twice, one below the other."""
    return _graph("decode", [helper.make_node("Concat", ["last", "last"], ["image"], axis=2)], DECODE, [])


def picture_graph() -> GraphProto:
    """image: the channels 0, 1 and 0 of x."""
    channels = helper.make_tensor("channels", TensorProto.INT64, [3], [0, 1, 0])
    return _graph("decode", [helper.make_node("Gather", ["last", "channels"], ["image"], axis=1)], PICTURE, [channels])


def plan(collect: bool = False, labels: bool = False, joins: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    scheduler = {"schedule.alphas_bar": "schedule.alphas_bar", "steps": "params.steps"}
    names = ("scheduler.alpha", "steps", "state.index", "state.slots")
    carries = {"x": "noise", "index": "scheduler.state.index", "slots": "scheduler.state.slots"}
    step = {name: name for name in STEP[0]}
    loop = {
        "over": "scheduler.steps",
        "item": "t",
        "index": "i",
        "next": {name: f"step.{name}" for name in carries},
        "collect": {"path": "step.x"} if collect else {},
        "result": {"last": "x"},
    }
    fresh = {"like": "x", "index": "i", "seed": "params.seed"}
    settings = {} if joins is None else {"joins": joins}
    body = [
        _operation("noise.gaussian", "fresh", fresh, ["fresh"]),
        _operation("part", "step", step, [*STEP[1]], settings),
    ]
    shape = {"shape": [2, 3, 5]}
    return [
        _operation("schedule.linear", "schedule", {}, ["schedule.alphas_bar"]),
        _operation("scheduler.ddim", "scheduler", scheduler, [f"scheduler.{name}" for name in names]),
        _operation("noise.gaussian", "noise", {"seed": "params.seed", "batch": "params.batch"}, ["noise"], shape),
        *([_operation("label.constant", "label", {"label": "params.label"}, ["label"])] if labels else []),
        _operation("part", "encode", {name: name for name in (LABELS if labels else ENCODE)[0]}, ["condition"]),
        {
            **_operation("loop", "sample", carries, ["last", *(["path"] if collect else [])], loop),
            "body": body,
        },
        _operation("part", "decode", {"last": "last"}, ["image"]),
    ]


def write_loop_bundle(
    root: Path,
    collect: bool = False,
    labels: bool = False,
    joins: dict[str, Any] | None = None,
    picture: bool = False,
    preview: dict[str, Any] | None = None,
) -> Path:
    """The bundle in the folder `root`; with `collect`, x of each step is an output too.

    labels: its condition is that of labels, one or a list, in the place of a level. joins: the setting of that name of
    its step, which then takes a scale and a row for each sample. picture: its output is a picture, not a tensor.
    preview: that of the manifest.
    """
    step = STEP if joins is None else JOINED_STEP
    graphs = {
        "encode": (label_graph(), LABELS) if labels else (encode_graph(), ENCODE),
        "step": (step_graph(step), step),
        "decode": (picture_graph(), PICTURE) if picture else (decode_graph(), DECODE),
    }
    files = {f"{name}.onnx": model(graph).SerializeToString() for name, (graph, _) in graphs.items()}
    number = {"type": "float", "help": ""}
    outputs = {"image": {"type": "image" if picture else "tensor", "source": "image"}}
    value = {
        "format": "guidegraph-bundle",
        "version": 1,
        "name": "loop",
        "workflow": "guidegraph: 1\n",
        "inputs": {
            **({"label": {"type": "int", "many": True, "default": 1}} if labels else {}),
            **({} if labels else {"level": {**number, "default": 2.0}}),
            "scale": {**number, "default": 0.5},
            **{
                name: {"type": "int", "default": default} for name, default in (("seed", 3), ("batch", 2), ("steps", 5))
            },
        },
        "outputs": outputs | ({"path": {"type": "tensor", "source": "path"}} if collect else {}),
        "parts": {
            name: {
                "file": f"{name}.onnx",
                "inputs": _tensors(ports[0]),
                "outputs": _tensors(ports[1]),
                "externals": [],
                "opsets": {"": OPSET},
            }
            for name, (_, ports) in graphs.items()
        },
        "plan": plan(collect, labels, joins),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
        "versions": {"guidegraph": "0.1.0"},
        "requires": {"opset": OPSET, "providers": []},
        "fixed": {},
        **({} if preview is None else {"preview": preview}),
    }
    root.mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    (root / "bundle.json").write_bytes(seal_manifest(value))
    return root


def _file(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _operation(
    op: str, node: str, inputs: dict[str, str], outputs: list[str], settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"op": op, "node": node, "in": inputs, "with": settings or {}, "out": outputs}


def _tensors(ports: Ports) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": dtype, "dims": dims} for name, (dtype, dims) in ports.items()]


def _graph(name: str, nodes: list[Any], ports: tuple[Ports, Ports], weights: list[TensorProto]) -> GraphProto:
    inputs, outputs = ([_info(name, *port) for name, port in group.items()] for group in ports)
    return helper.make_graph(nodes, name, inputs, outputs, weights)


def _info(name: str, dtype: str, dims: list[Any]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, DTYPES[dtype], dims)

"""A node exports to ONNX by the engine's exporter, and onnxruntime gives the same results, also at other sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.errors import Mark, NodeError
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.onnx.axes import Axis
from guidegraph.graph.export.partition.free_axes import silence_logger
from guidegraph.graph.export.partition.leaves import Leaf, tensor_leaves
from guidegraph.graph.ir import Call, Graph, Parameter
from guidegraph.graph.ir import GraphOutput as Wanted
from guidegraph.graph.port import port_kinds
from guidegraph.graph.sources import Literal, Output, Param, Sources
from guidegraph.graph.types import is_tensor
from guidegraph_testing.arguments import (
    Arguments,
    batch_size,
    call_node,
    make_arguments,
    output_leaves,
    require_traceable,
    take_sample,
    widen,
)
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming
from guidegraph_testing.comparison import difference

TOLERANCE = 1e-3
HERE = Mark("conformance", 1, 1)


def check_onnx_export(case: NodeCase) -> None:
    """One call of the node as an ONNX graph, with floats as inputs, agrees in onnxruntime and torch."""
    require_traceable(case)
    args = make_arguments(case)
    if not any(True for _ in args.leaves(case)):
        raise Inapplicable("no input is a tensor: what it gives is the same in every run")
    kinds_out = {kind for port in case.spec.outputs.values() for kind in port_kinds(port)}
    if not kinds_out <= {"tensor", "structured"} or not all(
        tensor_leaves(value) for value in call_node(case, args).values()
    ):
        raise Inapplicable("an output may be no tensor: inside of a step alone the node is in a graph")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise Inapplicable(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")
    from guidegraph.graph.export.one_node import export_call

    graph, values = as_graph(case, args)
    try:
        with silence_logger("torch.__trace"):  # pytest would print its records of the export with a failure
            exported = export_call(graph, values, "node")
    except (ExportError, NodeError) as error:
        raise case.error(
            "a node that can be traced",
            str(error),
            "follow the line that is named; a node that cannot be traced says host=True, and split= for a bundle",
        ) from error
    (part,) = exported.parts
    session = session_of(part.traced.to_bytes())
    names = [input_.name for input_ in part.plan.inputs]
    free = {axis.name for axes in part.axes for axis in axes.values()}
    for description, variant in _variants(case, args, free):
        try:
            outputs = call_node(case, variant)
        except Nonconforming:
            if description:  # a size that the node rejects; the checks of shapes and of the batch report it
                continue
            raise
        expected = [leaf for _, leaf in output_leaves(case, outputs)]
        feeds = _make_feeds(case, variant, part.axes)
        arrays = run_onnx(session, dict(zip(names, feeds, strict=True)))
        for name, leaf, array in zip(part.plan.outputs, expected, arrays, strict=True):
            error_ = difference(torch.from_numpy(array), _expand_to_samples(leaf, array.shape))
            if error_ > TOLERANCE:
                raise case.error(
                    f"onnxruntime to compute what the node does{description}",
                    f"output '{name}' differs by {error_:.1e} of its largest value",
                    "a number or a size that was known while the graph was traced is in it: compute it from the inputs",
                )


def _variants(case: NodeCase, args: Arguments, free: Collection[str]) -> Iterator[tuple[str, Arguments]]:
    """The arguments of the case, and if the graph has free sizes, one sample and another width."""
    yield "", args
    batch = batch_size(case, args)
    if "batch" in free and batch is not None and batch > 1:
        yield " for one sample", take_sample(case, args, batch, 0)
    if "width" in free:
        yield " at another width", args.map_tensors(case, widen)


def _make_feeds(case: NodeCase, args: Arguments, axes: Sequence[Mapping[int, Axis]]) -> list[Tensor]:
    """The inputs of the graph in order: tensors of ports and settings, and numeric settings.

    Single samples are expanded to the batch, as the runtime feeds them.
    """
    tensors: list[Tensor] = []
    for name, value in (*args.ports.items(), *args.settings.items()):
        if name in args.settings and _is_wired(case, name, value) and not is_tensor(value):
            tensors.append(torch.tensor(value, dtype=torch.float32))
        else:
            tensors += [leaf.tensor for leaf in tensor_leaves(value)]
    pairs = list(zip(tensors, axes, strict=True))
    batch = max(
        (t.shape[dim] for t, tensor_axes in pairs for dim, axis in tensor_axes.items() if axis.name == "batch"),
        default=1,
    )
    expanded = []
    for tensor, tensor_axes in pairs:
        sizes = [
            batch if dim in tensor_axes and tensor_axes[dim].name == "batch" else size
            for dim, size in enumerate(tensor.shape)
        ]
        expanded.append(tensor.expand(sizes))
    return expanded


def _expand_to_samples(leaf: Leaf, shape: Sequence[int]) -> Tensor:
    """A result for all samples, as the graph gives it, for each; any other result as it is."""
    tensor: Tensor = leaf.tensor
    if len(shape) != tensor.ndim:
        return tensor
    sizes = zip(leaf.axes, tensor.shape, shape, strict=True)
    return tensor.expand([due if axis == "B" and size == 1 else size for axis, size, due in sizes])


def _is_wired(case: NodeCase, name: str, value: Any) -> bool:
    """Whether a setting becomes an input of the graph."""
    return is_tensor(value) or (isinstance(value, float) and name not in case.constant)


def as_graph(case: NodeCase, args: Arguments) -> tuple[Graph, dict[str, Any]]:
    """A workflow with only this node, and parameters for its tensors, models and numbers."""
    spec = case.spec
    values: dict[str, Any] = {}
    inputs: dict[str, Sources] = {}
    settings: dict[str, Sources] = {}
    for name, value in args.ports.items():
        values[name] = value
        inputs[name] = Param(name)
    for name, value in args.settings.items():
        wired = _is_wired(case, name, value)
        if wired:
            values[name] = value
        settings[name] = Param(name) if wired else Literal(value)
    params = {name: Parameter(name, spec.ports[name], None, True, "", HERE, Path()) for name in values}
    operation = Call("node", spec, inputs, settings, HERE)
    outputs = {name: Wanted(Output("node", name), kind, HERE) for name, kind in spec.outputs.items()}
    return Graph(Path("conformance.yaml"), params, {"node": operation}, outputs, {}), values


def session_of(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, inputs: Mapping[str, Tensor]) -> list[Any]:
    """The outputs of a model in order; inputs that it does not have are ignored."""
    names = {input_.name for input_ in session.get_inputs()}
    feeds = {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items() if name in names}
    outputs: list[Any] = session.run(None, feeds)
    return outputs

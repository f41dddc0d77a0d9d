"""A node exports to ONNX by the engine's own path, and onnxruntime computes what it does, at other sizes too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.errors import Mark, NodeError
from guidegraph.graph.export.axes import Axis
from guidegraph.graph.export.leaves import leaves_of
from guidegraph.graph.hosted import kinds
from guidegraph.graph.ir import Call, Graph, Literal, Output, Param, Parameter, Sources
from guidegraph.graph.ir import GraphOutput as Wanted
from guidegraph.graph.types import is_tensor
from guidegraph.testing.batches import batch_of, sample_of, wider
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Inapplicable, Nonconforming
from guidegraph.testing.values import Arguments, arguments, call, difference, leaves_out, only_traceable

TOLERANCE = 1e-3
HERE = Mark("conformance", 1, 1)


def check_onnx_export(case: NodeCase) -> None:
    """One call of the node as an ONNX graph, its floats as inputs, in onnxruntime against torch."""
    only_traceable(case)
    given = arguments(case)
    if not any(True for _ in given.leaves(case)):
        raise Inapplicable("no input is a tensor: what it gives is the same in every run")
    made = {kind for port in case.spec.outputs.values() for kind in kinds(port)}
    if not made <= {"tensor", "structured"} or not all(leaves_of(value) for value in call(case, given).values()):
        raise Inapplicable("an output may be no tensor: inside of a step alone the node is in a graph")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise Inapplicable(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")
    from guidegraph.graph.export.errors import ExportError
    from guidegraph.graph.export.one_call import export_call

    graph, values = as_graph(case, given)
    try:
        exported = export_call(graph, values, "node")
    except (ExportError, NodeError) as error:
        raise case.error(
            "a node that can be traced",
            str(error),
            "follow the line that is named; a node that cannot be traced says host=True, and split= for a bundle",
        ) from error
    (part,) = exported.parts
    session = session_of(part.traced.serialised())
    names = [one.name for one in part.plan.inputs]
    free = {axis.name for here in part.axes for axis in here.values()}
    for what, variant in _variants(case, given, free):
        try:
            outputs = call(case, variant)
        except Nonconforming:
            if what:  # a size that the node does not take, as the check of shapes or of the batch says
                continue
            raise
        expected = [leaf.tensor for _, leaf in leaves_out(case, outputs)]
        fed = _repeated(_fed(case, variant), part.axes)
        found = run_onnx(session, dict(zip(names, fed, strict=True)))
        for name, tensor, array in zip(part.plan.outputs, expected, found, strict=True):
            apart = difference(torch.from_numpy(array), tensor)
            if apart > TOLERANCE:
                raise case.error(
                    f"onnxruntime to compute what the node does{what}",
                    f"output '{name}' differs by {apart:.1e} of its largest value",
                    "a number or a size that was known while the graph was traced is in it: compute it from the inputs",
                )


def _variants(case: NodeCase, given: Arguments, free: Collection[str]) -> Iterator[tuple[str, Arguments]]:
    """The values of the case, and where the graph leaves sizes free, one sample alone and another width."""
    yield "", given
    batch = batch_of(case, given)
    if "batch" in free and batch is not None and batch > 1:
        yield " for one sample", sample_of(case, given, batch, 0)
    if "width" in free:
        yield " at another width", given.mapped(case, wider)


def _fed(case: NodeCase, given: Arguments) -> list[Tensor]:
    """The inputs of the graph in its order: tensors of the ports and the settings, and numbers of these."""
    found: list[Tensor] = []
    for name, value in (*given.ports.items(), *given.settings.items()):
        if name in given.settings and _is_wired(case, name, value) and not is_tensor(value):
            found.append(torch.tensor(value, dtype=torch.float32))
        else:
            found += [leaf.tensor for leaf in leaves_of(value)]
    return found


def _repeated(tensors: Sequence[Tensor], axes: Sequence[Mapping[int, Axis]]) -> list[Tensor]:
    """The tensors, one sample for the whole batch repeated for each, as the runtime feeds them."""
    pairs = list(zip(tensors, axes, strict=True))
    batch = max((t.shape[at] for t, here in pairs for at, axis in here.items() if axis.name == "batch"), default=1)
    found = []
    for tensor, here in pairs:
        sizes = [batch if at in here and here[at].name == "batch" else size for at, size in enumerate(tensor.shape)]
        found.append(tensor.expand(sizes))
    return found


def _is_wired(case: NodeCase, name: str, value: Any) -> bool:
    """Whether a setting becomes an input of the graph."""
    return is_tensor(value) or (isinstance(value, float) and name not in case.constant)


def as_graph(case: NodeCase, given: Arguments) -> tuple[Graph, dict[str, Any]]:
    """A workflow of this one node, with parameters for its tensors and models and for its numbers."""
    spec = case.spec
    values: dict[str, Any] = {}
    inputs: dict[str, Sources] = {}
    settings: dict[str, Sources] = {}
    for name, value in given.ports.items():
        values[name] = value
        inputs[name] = Param(name)
    for name, value in given.settings.items():
        wired = _is_wired(case, name, value)
        if wired:
            values[name] = value
        settings[name] = Param(name) if wired else Literal(value)
    params = {name: Parameter(name, _port(case, name), None, True, "", HERE, Path()) for name in values}
    operation = Call("node", spec, inputs, settings, HERE)
    outputs = {name: Wanted(Output("node", name), kind, HERE) for name, kind in spec.outputs.items()}
    return Graph(Path("conformance.yaml"), params, {"node": operation}, outputs, {}), values


def _port(case: NodeCase, name: str) -> Any:
    port = case.spec.port(name)
    assert port is not None
    return port


def session_of(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, inputs: Mapping[str, Tensor]) -> list[Any]:
    """The outputs of a model in order; inputs that it does not have are left out."""
    taken = {one.name for one in session.get_inputs()}
    fed = {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items() if name in taken}
    found: list[Any] = session.run(None, fed)
    return found

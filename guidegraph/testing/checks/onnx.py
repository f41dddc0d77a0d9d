"""A node exports to ONNX by the engine's own path, and onnxruntime computes what it does in torch, at other sizes too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, NodeError
from guidegraph.graph.export.leaves import leaves_of
from guidegraph.graph.hosted import kinds
from guidegraph.graph.ir import Call, Graph, Literal, Output, Param, Parameter, Sources
from guidegraph.graph.ir import GraphOutput as Wanted
from guidegraph.graph.types import is_tensor
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Inapplicable
from guidegraph.testing.values import Arguments, arguments, call, only_traceable

TOLERANCE = 1e-3
HERE = Mark("conformance", 1, 1)


def check_onnx_export(case: NodeCase) -> None:
    """One call of the node as an ONNX graph, its floats as inputs, in onnxruntime against torch."""
    only_traceable(case)
    given = arguments(case)
    if not any(True for _ in given.leaves(case)):
        raise Inapplicable("no input is a tensor: what it gives is the same in every run")
    made = {kind for port in case.spec.outputs.values() for kind in kinds(port)}
    if case.spec.runtime:
        raise Inapplicable("the runtime has an operation that does the same (runtime=True)")
    if not made <= {"tensor", "structured"} or not all(leaves_of(value) for value in call(case, given).values()):
        raise Inapplicable("an output may be no tensor: inside of a step alone the node is in a graph")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise Inapplicable(f"{', '.join(missing)} not installed: pip install 'guidegraph[export]'")
    from guidegraph.graph.export.check import called
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
    expected = called(exported)
    found = run_onnx(part.traced.serialised(), {one.name: one.example for one in part.plan.inputs})
    for name, tensor in expected.items():
        apart = abs(found[name].astype("float64") - tensor.numpy().astype("float64"))
        scale = max(1.0, float(abs(tensor.double()).max()))
        if found[name].shape != tuple(tensor.shape) or not float(apart.max()) <= TOLERANCE * scale:
            raise case.error(
                "onnxruntime to compute what torch does",
                f"output '{name}' differs by {float(apart.max()) / scale:.1e}",
                "a number or a size that was known while the graph was traced is in it: compute it from the inputs",
            )


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
        number = isinstance(value, float) and name not in case.constant
        if number or is_tensor(value):
            values[name] = value
        settings[name] = Param(name) if number or is_tensor(value) else Literal(value)
    params = {name: Parameter(name, _port(case, name), None, True, "", HERE, Path()) for name in values}
    operation = Call("node", spec, inputs, settings, HERE)
    outputs = {name: Wanted(Output("node", name), kind, HERE) for name, kind in spec.outputs.items()}
    return Graph(Path("conformance.yaml"), params, {"node": operation}, outputs, {}), values


def _port(case: NodeCase, name: str) -> Any:
    port = case.spec.port(name)
    assert port is not None
    return port


def run_onnx(model: bytes, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a model on the CPU, by name, for torch tensors by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    fed = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items() if name in taken}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))

"""Tracing a torch function, with or without a gradient inside, into an ONNX graph."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from guidegraph.graph.export.errors import ExportError, FixedSizeError
from guidegraph.graph.export.onnx.axes import Axis, check_axes, choose_trace_sizes
from guidegraph.graph.export.onnx.decompositions import decompositions
from guidegraph.graph.export.onnx.gradients import Probe, probe, trace_forward
from guidegraph.graph.export.onnx.model import TracedPart, finish, save_part, silence_torch, tidy, to_onnx
from guidegraph.graph.export.onnx.program import is_functional, make_program
from guidegraph.graph.export.user_frame import user_frame_of_traceback
from guidegraph_runtime.error_text import error_text, list_causes
from guidegraph_runtime.operations import drawing_operations

__all__ = ["Axis", "TracedPart", "save_part", "trace_part"]

Function = Callable[..., Any]

_tracing = threading.RLock()
"""Held during a trace, which sets globals of torch and restores them afterwards."""

REWRITE = (
    "compute with tensors: no branch on a tensor's value, no .item() or float(), no NumPy; or mark the node host=True, "
    "so that it runs outside the graph"
)


class _Flat(nn.Module):
    """A function wrapped as a module, which torch.export requires."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # An output that is also an input or another output is cloned, so that it can have its own name.
        seen = {id(tensor) for tensor in inputs}
        outputs = []
        for tensor in self.function(*inputs):
            outputs.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(outputs)


def trace_part(
    function: Function,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    axes: Sequence[Mapping[int, Axis]],
    output_names: Sequence[str],
) -> TracedPart:
    """The function, flat tensors to a tuple of flat tensors, as an ONNX graph of opset 20.

    inputs: an example of each; only shapes and dtypes count. names: of the inputs, axes: which of their axes are free.
    Tensors that the function holds, such as the weights of frozen models, become initialisers; so does every Python
    number, while a 0-d tensor among the inputs stays an input. A gradient inside becomes part of the forward graph.
    Raises ``ExportError`` for a function that cannot be traced, that draws random numbers, that holds for some sizes
    alone, or that uses an operator without an ONNX form; ``ValueError`` for names and axes that do not fit the inputs.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ExportError(f"{' and '.join(missing)} not installed", f"install it: pip install {' '.join(missing)}")
    sizes_found = check_axes(inputs, names, axes)
    if len({*names, *output_names}) < len(names) + len(output_names):
        raise ValueError(f"inputs and outputs need different names; found {[*names, *output_names]}")
    seen = _run_once(function, inputs, output_names)
    fixed = [
        int(size)
        for tensor, dynamic in zip(inputs, axes, strict=True)
        for index, size in enumerate(tensor.shape)
        if index not in dynamic
    ]
    sizes = choose_trace_sizes(axes, sizes_found, fixed)
    examples = []
    for tensor, dynamic in zip(inputs, axes, strict=True):
        shape = [sizes[dynamic[i].name] if i in dynamic else int(size) for i, size in enumerate(tensor.shape)]
        examples.append(torch.zeros(shape, dtype=tensor.dtype, device=tensor.device))

    with _tracing, silence_torch():
        arguments = (_Flat(function).forward, examples, axes, sizes, seen.gradient or seen.transforms)
        graph = _as_export_error(trace_forward, *arguments)
        if is_functional(graph):
            program = make_program(graph)
        else:
            graph = _as_export_error(trace_forward, *arguments, decompositions())
            program = _as_export_error(_export, graph, examples, axes)
        try:
            model = to_onnx(program)
        except Exception as error:
            raise _explain_missing_operator(error, graph, function, inputs) from error
    return tidy(finish(model, names, output_names), axes, seen.gradient)


def _run_once(function: Function, inputs: Sequence[Tensor], output_names: Sequence[str]) -> Probe:
    """Run the function once and return the probe. Raises for functions that cannot be a graph."""
    outputs, seen = probe(function, inputs)
    if not isinstance(outputs, tuple) or not all(isinstance(output, Tensor) for output in outputs):
        raise TypeError(f"an exported function gives a tuple of tensors; found {type(outputs).__name__}")
    if len(outputs) != len(output_names):
        raise ValueError(f"the function gives {len(outputs)} tensors and {len(output_names)} names are given for them")
    for operator, place in seen.random.items():
        raise ExportError(
            "it draws random numbers, which would not be those of the engine",
            f"take the random numbers from a port instead (of {' or '.join(drawing_operations())})",
            place=place,
            operator=operator,
        )
    return seen


def _export(graph: GraphModule, examples: Sequence[Tensor], axes: Sequence[Mapping[int, Axis]]) -> ExportedProgram:
    """A graph with operators that change their arguments, traced by torch, which replaces these."""
    dims: dict[str, Any] = {}
    for axis in (axis for dynamic in axes for axis in dynamic.values()):
        low, high = axis.units
        if axis.name in dims:
            continue
        if axis.multiple_of == 1:
            dims[axis.name] = Dim(axis.name, min=low, max=high)
        else:  # derived from a dimension that counts the units
            dims[axis.name] = axis.multiple_of * Dim(f"{axis.name}_units", min=low, max=high)
    shapes = tuple({index: dims[axis.name] for index, axis in dynamic.items()} for dynamic in axes)
    return torch.export.export(_Flat(graph), tuple(examples), dynamic_shapes={"inputs": shapes}, strict=False)


def _as_export_error(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except ExportError:
        raise
    except Exception as error:
        raise _explain_torch_error(error) from error


def _explain_torch_error(error: Exception) -> ExportError:
    """Translate torch's error about a function that it cannot trace for the function's author."""
    text = error_text(error)
    place = user_frame_of_traceback(error.__traceback__)
    if "onstraint" in text and (fixed := re.findall(r"because (\w+) was inferred to be a constant \((\d+)\)", text)):
        return FixedSizeError(" and ".join(f"{name} = {size}" for name, size in fixed), place)
    if operator := re.search(r"aten\.(_local_scalar_dense|item|equal|is_nonzero|nonzero)\b", text):
        return ExportError(
            "a tensor's value decides what happens here, and it is not known while a graph is traced",
            REWRITE,
            place=place,
            operator=operator.group(0),
        )
    if "data-dependent" in text or "data dependent" in text:
        return ExportError(
            "a tensor's value decides what happens here, and it is not known while a graph is traced",
            REWRITE,
            place=place,
        )
    if "numpy()" in text:
        return ExportError("it hands a tensor to NumPy, which a graph cannot follow", REWRITE, place=place)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ExportError(f"torch cannot trace it ({type(error).__name__}: {first})", REWRITE, place=place)


def _explain_missing_operator(
    error: BaseException, graph: GraphModule, function: Function, inputs: Sequence[Tensor]
) -> ExportError:
    """The error for an operator that could not be converted, with its name and the location of its call."""
    calls = {str(node.target): node for node in graph.graph.nodes if node.op == "call_function"}
    texts = [error_text(link) for link in list_causes(error)]
    text = "\n".join(texts)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)', overload='(\w+)'\)>", text)
    failed = re.search(r"target=torch\.ops\.([\w.]+)\]", text)
    operator = f"{missing.group(1)}.{missing.group(2)}" if missing else failed.group(1) if failed else ""
    if operator in calls:  # torch may have replaced the operator that was called by its own primitives
        operator = str(calls[operator].meta.get("original_aten", operator))
    name = operator.rpartition(".")[0]
    place = probe(function, inputs, operator=name)[1].place if name else ""
    if missing:
        reason, remedy = f"operator {name} has no ONNX form", _register(name, operator)
    else:
        last_line = next((line.strip() for line in texts[-1].splitlines() if line.strip()), "no reason given")
        reason = f"operator {name or 'of unknown name'} could not be converted to ONNX ({last_line})"
        remedy = _register(name, operator) if name else REWRITE
    return ExportError(reason, remedy, place=place, operator=name)


def _register(name: str, operator: str) -> str:
    return (
        f"replace it in the model, or give it in terms of others with register_decomposition(torch.ops.{operator})"
        if name
        else "replace it in the model"
    )

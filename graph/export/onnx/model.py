"""Exported parts: ONNX models with named axes and without traces of this machine, and writing them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import onnx_ir
import sympy
from onnxscript.version_converter import convert_version
from torch.export import ExportedProgram

from guidegraph.graph.export.errors import ExportError, FixedSizeError
from guidegraph.graph.export.onnx.axes import Axis
from guidegraph.graph.export.onnx.program import OPSET, onnx_registry, prepare
from guidegraph.graph.export.onnx.simplify import optimise
from guidegraph.graph.torch_private import onnx_exporter
from guidegraph_runtime.files.atomic_write import atomic_files

EMBEDDED_LIMIT = 1 << 31
"""Models with at least this many bytes of weights are two files, as a protobuf message is limited to 2 GiB."""


@dataclass(frozen=True, eq=False)
class TracedPart:
    """An exported function. gradient: whether it has a gradient inside."""

    model: onnx_ir.Model
    gradient: bool

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each input, with the names of free axes."""
        return {str(value.name): _shape(value) for value in self.model.graph.inputs}

    @property
    def outputs(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each output; a free axis is a name or an expression of names."""
        return {str(value.name): _shape(value) for value in self.model.graph.outputs}

    @property
    def weight_bytes(self) -> int:
        """The size of the initialisers in bytes."""
        tensors = (value.const_value for value in self.model.graph.initializers.values())
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def to_bytes(self) -> bytes:
        """The model as one protobuf message. Raises ``ExportError`` for more than 2 GiB of weights."""
        if self.weight_bytes >= EMBEDDED_LIMIT:
            raise ExportError(f"{self.weight_bytes} bytes of weights do not fit one ONNX message", "use save_part")
        data: bytes = onnx_ir.to_proto(self.model).SerializeToString()
        return data


def save_part(part: TracedPart, path: str | os.PathLike[str], embedded_limit: int = EMBEDDED_LIMIT) -> list[Path]:
    """Write a part to `path`, with its weights in `path`.data if they take `embedded_limit` bytes or more.

    Returns the files written. Both are written to temporary files and moved when they are complete.
    """
    path = Path(path)
    external = part.weight_bytes >= min(embedded_limit, EMBEDDED_LIMIT)
    data = path.with_name(f"{path.name}.data")
    with atomic_files(path) as folder:
        if external:
            # This leaves the model's tensors in memory unchanged, so the part can be saved again.
            onnx_ir.save(part.model, folder / path.name, external_data=data.name, size_threshold_bytes=1024)
        else:
            onnx_ir.save(part.model, folder / path.name)
            data.unlink(missing_ok=True)
    return [path, data] if external else [path]


def to_onnx(program: ExportedProgram) -> onnx_ir.Model:
    """The exported program as an ONNX model. Errors of torch are passed on."""
    with silence_torch():
        converted = onnx_exporter._exported_program_to_onnx_program(prepare(program), registry=onnx_registry())
        model: onnx_ir.Model = converted.model
        convert_version(model, OPSET, fallback=True)
    return model


def finish(model: onnx_ir.Model, names: Sequence[str], output_names: Sequence[str]) -> onnx_ir.Model:
    """The model, optimised in place, with these names of its inputs and outputs."""
    with silence_torch():
        optimise(model)
    _rename_values(model, names, output_names)
    return model


def _rename_values(model: onnx_ir.Model, names: Sequence[str], output_names: Sequence[str]) -> None:
    """Rename the inputs and outputs; other values with one of the names get a new name."""
    graph = model.graph
    names_by_id = {id(value): name for value, name in zip(graph.inputs, names, strict=True)}
    names_by_id |= {id(value): name for value, name in zip(graph.outputs, output_names, strict=True)}
    inner = [value for node in graph.all_nodes() for value in node.outputs]
    values = [*graph.inputs, *graph.initializers.values(), *inner]
    taken = {value.name for value in values} | set(names_by_id.values())
    for value in values:
        if id(value) in names_by_id or value.name in names_by_id.values():
            value.name = next(f"{value.name}_{i}" for i in count(1) if f"{value.name}_{i}" not in taken)
            taken.add(value.name)
    for value in (*graph.inputs, *graph.outputs):
        value.name = names_by_id[id(value)]


def tidy(model: onnx_ir.Model, axes: Sequence[Mapping[int, Axis]], gradient: bool) -> TracedPart:
    """Name a model's free axes, and remove stack traces, paths and comments."""
    rename = _Renamer(model, axes)
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "guidegraph", None
    model.graph.name, model.graph.doc_string = "main_graph", None
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        rename(value)
        if value.const_value is not None:
            value.const_value.doc_string = None
    return TracedPart(model, gradient)


class _Renamer:
    """Replaces torch's symbols, such as `s26` or `4*s26`, by the names of the axes."""

    def __init__(self, model: onnx_ir.Model, axes: Sequence[Mapping[int, Axis]]) -> None:
        self.names_by_symbol: dict[str, str | None] = {}
        self.symbols: dict[sympy.Symbol, sympy.Expr] = {}
        for value, dynamic in zip(model.graph.inputs, axes, strict=True):
            for index, axis in dynamic.items():
                assert value.shape is not None
                text = str(getattr(value.shape[index], "value", value.shape[index]))
                self.names_by_symbol[text] = axis.name
                symbols = sympy.sympify(text).free_symbols
                if not symbols:  # torch has silently fixed the size
                    raise FixedSizeError(f"{axis.name} = {text}", "")
                self.symbols[next(iter(symbols))] = sympy.Symbol(axis.name, integer=True) / axis.multiple_of

    def __call__(self, value: onnx_ir.Value) -> None:
        if value.shape is None or value.shape.is_static():
            return
        sizes = [d if isinstance(d, int) else onnx_ir.SymbolicDim(self._name(d.value)) for d in value.shape]
        value.shape = onnx_ir.Shape(sizes)

    def _name(self, text: str | None) -> str | None:
        if text is None:
            return None
        if text not in self.names_by_symbol:
            try:
                expression = sympy.sympify(text).subs(self.symbols)
            except (sympy.SympifyError, TypeError, AttributeError):
                expression = None
            self.names_by_symbol[text] = None if expression is None else str(_simplify(expression)).replace(" ", "")
        return self.names_by_symbol[text]


def _simplify(expression: sympy.Expr) -> sympy.Expr:
    """The simplest form of a size. Products of numbers and symbols have it already."""
    factors = sympy.Mul.make_args(expression)
    return expression if all(factor.is_Atom for factor in factors) else sympy.simplify(expression)


def _shape(value: onnx_ir.Value) -> tuple[int | str, ...]:
    sizes = () if value.shape is None else value.shape
    return tuple(size if isinstance(size, int) else str(size.value) for size in sizes)


@contextmanager
def silence_torch() -> Iterator[None]:
    """A context without torch's messages about progress and missing packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

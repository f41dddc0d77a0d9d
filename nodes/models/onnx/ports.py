"""Maps the fields of a denoiser (x, t, condition, prediction) to the inputs and outputs of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import torch
from torch import Tensor

from guidegraph.graph.errors import suggest
from guidegraph.nodes.models.onnx.fields import ConstantInput, InputField, OutputField
from guidegraph.nodes.types import PredictionKind

if TYPE_CHECKING:
    from guidegraph_runtime.bundle.manifest_types import Part
    from guidegraph_runtime.bundle.manifest_types import Tensor as Declared

_AXES = {"x": (4,), "t": (0, 1, 2), "vector": (1, 2), "tokens": (3,), "mask": (2,), "spatial": (4,)}
_MAPS = ("x", "spatial")


@dataclass(frozen=True)
class GraphPorts:
    """The fields of each input by its name, the output of each field, the kind, and constants for other inputs.

    Two fields of one input, x and spatial, are concatenated along the channels. Two fields of one output are its
    halves.
    """

    inputs: Mapping[str, tuple[InputField, ...]]
    outputs: Mapping[OutputField, str]
    kind: PredictionKind
    constants: Mapping[str, ConstantInput] = field(default_factory=dict)
    foreign: bool = False
    """Whether the graph comes from a file of other software, not from a bundle."""

    @property
    def fields(self) -> set[str]:
        """All fields that the graph takes."""
        return {name for fields in self.inputs.values() for name in fields}


def make_bundle_ports(part: Part, kind: PredictionKind) -> GraphPorts:
    """The ports of a graph whose inputs and outputs have the names of the fields."""
    inputs: dict[str, Any] = {tensor.name: (tensor.name,) for tensor in part.inputs}
    outputs: dict[Any, str] = {tensor.name: tensor.name for tensor in part.outputs}
    return GraphPorts(inputs, outputs, kind)


def make_file_ports(
    source: str,
    part: Part,
    inputs: Mapping[InputField, str],
    outputs: Mapping[OutputField, str],
    constants: Mapping[str, ConstantInput],
    kind: PredictionKind | None,
) -> GraphPorts:
    """The ports of a graph with other names. Raises ``ValueError`` for settings that do not fit the graph."""
    graph_inputs, graph_outputs = ({tensor.name: tensor for tensor in side} for side in (part.inputs, part.outputs))
    for name in [*inputs.values(), *constants]:
        if name not in graph_inputs:
            _fail(source, f"it has no input '{name}'; {suggest(name, graph_inputs, 'inputs')}", part)
    fields_by_input: dict[str, tuple[InputField, ...]] = {}
    for key in get_args(InputField):  # their order is that of the channels
        if key in inputs:
            fields_by_input[inputs[key]] = (*fields_by_input.get(inputs[key], ()), key)
    if missing := [key for key in ("x", "t") if key not in inputs]:
        settings = ", ".join(f"{key}: NAME" for key in missing)
        _fail(
            source,
            f"nothing says which of its inputs takes {' and '.join(missing)}: set `inputs: {{{settings}}}`",
            part,
        )
    for name, fields in fields_by_input.items():
        _check_input(source, part, graph_inputs[name], fields)
        if name in constants:
            _fail(source, f"its input '{name}' takes {' and '.join(fields)}, and has a number in `constants` too", part)
    if unfilled := [name for name in graph_inputs if name not in fields_by_input and name not in constants]:
        axes = len(graph_inputs[unfilled[0]].dims)
        free = [key for key in get_args(InputField) if key not in inputs and axes in _AXES[key]]
        advice = f"name it under `inputs` as {' or '.join(free)}, or " if free else ""
        message = f"nothing says what its input '{unfilled[0]}' takes: {advice}give it a number in `constants`"
        _fail(source, message, part)
    output_names = _output_names(source, part, graph_outputs, outputs)
    if kind is None:
        _fail(source, "nothing says what it predicts: set `kind` to eps, x0 or v", part)
    return GraphPorts(fields_by_input, output_names, kind, constants, foreign=True)


def _check_input(source: str, part: Part, declared: Declared, fields: Sequence[InputField]) -> None:
    if len(fields) > 1 and any(key not in _MAPS for key in fields):
        message = f"its input '{declared.name}' is named for {' and '.join(fields)}: only x and spatial can share one"
        _fail(source, message, part)
    axes = _AXES[fields[0]]
    if len(declared.dims) not in axes:
        expected = " or ".join(map(str, axes))
        _fail(source, f"its input '{declared.name}' has {len(declared.dims)} axes; {fields[0]} has {expected}", part)
    if fields[0] == "t" and len(declared.dims) == 2 and declared.dims[1] != 1:
        message = f"its input '{declared.name}' has {declared.dims[1]} numbers for each sample, an embedding of t"
        _fail(source, f"{message}: only t itself, one number for each sample, can be given", part)


def _output_names(
    source: str, part: Part, graph_outputs: Mapping[str, Declared], outputs: Mapping[OutputField, str]
) -> dict[OutputField, str]:
    for name in outputs.values():
        if name not in graph_outputs:
            _fail(source, f"it has no output '{name}'; {suggest(name, graph_outputs, 'outputs')}", part)
    names = dict(outputs)
    if "value" not in names:
        if names or len(graph_outputs) != 1:
            _fail(source, "nothing says which of its outputs is the prediction: name it under `outputs` as value", part)
        names["value"] = next(iter(graph_outputs))
    return names


def _fail(source: str, message: str, part: Part) -> NoReturn:
    raise ValueError(
        f"'{source}': {message}. It takes {describe_tensors(part.inputs)}, and gives {describe_tensors(part.outputs)}"
    )


def describe_tensors(tensors: Sequence[Declared]) -> str:
    """Tensors with dtypes and shapes; "?" is an axis of any size."""
    return ", ".join(f"{tensor.name} ({tensor.dtype}, {_shape(tensor)})" for tensor in tensors) or "nothing"


def _shape(tensor: Declared) -> str:
    return " × ".join("?" if isinstance(dim, str) else str(dim) for dim in tensor.dims) or "one number"


def fit_input(declared: Declared, fields: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Build the tensor of an input from its fields, with the dtype and number of axes that the graph declares.

    Several maps are concatenated along the channels. A vector (B, 1) fits an input of one axis, and t (B) one of none
    (the same t for all samples), one or two. Raises ``ValueError`` with advice for a shape that differs from
    the declared one, and if an integer dtype would round.
    """
    (name, first), *more = fields.items()
    for other, value in more:
        if value.ndim != first.ndim or value.shape[2:] != first.shape[2:]:
            raise ValueError(
                f"the graph's input '{declared.name}' is {name} and {other} along the channels, and their shapes are "
                f"{_sizes(first.shape)} and {_sizes(value.shape)}: give both the same height and width"
            )
    tensor = torch.cat([first, *(value.to(first) for _, value in more)], dim=1) if more else first
    tensor = _fit_axes(declared, name, tensor.detach())
    _check_shape(declared, " and ".join(fields), tensor)
    dtype = getattr(torch, declared.dtype)
    if tensor.is_floating_point() and not (dtype.is_floating_point or dtype == torch.bool):
        _check_whole(declared, name, tensor)
    return tensor.to(device, dtype).contiguous()


def _fit_axes(declared: Declared, name: str, tensor: Tensor) -> Tensor:
    axes = len(declared.dims)
    if name == "t":
        if is_unbatched(declared):
            tensor = tensor[:1]
        return tensor[0] if axes == 0 else tensor.reshape(-1, *(1,) * (axes - 1))
    if name == "vector" and axes == 1 and tensor.ndim == 2:
        if tensor.shape[1] != 1:
            raise ValueError(
                f"the graph's input '{declared.name}' is one number for each sample, and the condition's vector has "
                f"{tensor.shape[1]}: condition.vector makes one of numbers and labels"
            )
        return tensor[:, 0]
    return tensor


def _check_shape(declared: Declared, name: str, tensor: Tensor) -> None:
    """Raise ``ValueError`` if the number of axes, the batch or the size differs from the graph's."""
    shape, dims = tensor.shape, declared.dims
    fits = (isinstance(dim, str) or dim == size for dim, size in zip(dims, shape, strict=False))
    if len(shape) == len(dims) and all(fits):
        return
    message = f"the graph's input '{declared.name}' has the shape {_shape(declared)}, and {name} {_sizes(shape)}"
    if len(shape) != len(dims):
        raise ValueError(f"{message}: give {name} with {len(dims)} axes")
    if isinstance(dims[0], int) and dims[0] != shape[0]:
        raise ValueError(
            f"{message}: draw {dims[0]} samples at a time (`batch` of noise.gaussian), without guidance "
            "that asks for several predictions of each in one call, or export the graph with an open batch"
        )
    advice = "draw noise of that size (`shape` of noise.gaussian)" if name == "x" else f"give {name} of that size"
    raise ValueError(f"{message}: {advice}")


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def _check_whole(declared: Declared, name: str, tensor: Tensor) -> None:
    fractional = ~tensor.isfinite() | (tensor != tensor.round())
    if not bool(fractional.any()):
        return
    value = float(tensor[fractional].flatten()[0])
    advice = (
        "choose levels at whole timesteps, with `spacing: leading` or `trailing` and `sigmas: schedule`"
        if name == "t"
        else "give whole numbers"
    )
    raise ValueError(f"the graph's input '{declared.name}' takes {declared.dtype}, and {name} has {value:g}: {advice}")


def is_unbatched(declared: Declared) -> bool:
    """Whether an input is one number or one row for any batch size."""
    return declared.dims[:1] in ((), (1,))


def expand_constant(declared: Declared, constant: ConstantInput, batch: int, device: torch.device) -> Tensor:
    """Expand a number, or a row of numbers, to the shape that the graph declares; an open leading axis is the batch.

    Raises ``ValueError`` if the row is not as long as the last axis, or another axis is open.
    """
    values = torch.tensor(constant, dtype=torch.float64)
    shape = [batch if i == 0 and isinstance(dim, str) else dim for i, dim in enumerate(declared.dims)]
    if values.ndim and shape and isinstance(shape[-1], str):
        shape[-1] = len(values)
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if len(sizes) < len(shape) or (values.ndim and (not sizes or sizes[-1] != len(values))):
        raise ValueError(
            f"the graph's input '{declared.name}' has the shape {_shape(declared)}, which {constant} in `constants` "
            "does not fill: give a number for sizes that are fixed, or one row of its last axis"
        )
    return fit_input(declared, {"constant": values.expand(sizes)}, device)

"""The weights of a graph that a LoRA may change at run time, by their names in LoRA files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from guidegraph.graph.export.onnx.model import TracedPart

ADAPTABLE_METHOD = "adaptable_weights"
"""A method of models: a mapping from the names of layers in LoRA files to the model's parameters, or to rows of one."""

LEAST_BYTES = 1024
"""Smaller weights are in the graph itself, not in the data file (see `save_part`)."""


class WeightRows(Protocol):
    """The rows of a parameter that LoRA files call a layer of its own.

    layer: the parameter's name. start, count: the rows; all of them without a count. swapped: files have the second
    half of these rows first.
    """

    @property
    def layer(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def count(self) -> int | None: ...

    @property
    def swapped(self) -> bool: ...


@dataclass(frozen=True)
class AdaptableWeight:
    """An initialiser with one layer's weight. transposed: stored as (in, out). names: of the layer in LoRA files.

    rows: the first and the number of those of the weight's rows that the layer is, or None for all. swapped: files have
    the second half of them first.
    """

    weight: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool
    names: tuple[str, ...]
    rows: tuple[int, int] | None = None
    swapped: bool = False


def find_adaptable_weights(part: TracedPart, models: Sequence[Any], dtype: Any) -> tuple[AdaptableWeight, ...]:
    """The adaptable weights of models (those with the method ``adaptable_weights``) that the graph has unchanged.

    They are matched by their bytes, since the export does not keep names. Weights of fewer than 1024 bytes, weights in
    another form (8-bit), and weights that several layers share are left out.
    """
    parameters = _list_parameters(models)
    if not parameters:
        return ()
    names_by_content = _names_by_content(part)
    users: dict[str, list[list[AdaptableWeight]]] = {}
    for tensor, layers in parameters:
        for stored_as, transposed in _list_stored_forms(tensor):
            weight = stored_as.detach().to(dtype).contiguous().cpu()
            shape, stored_dtype = tuple(weight.shape), str(weight.dtype).removeprefix("torch.")
            for name in names_by_content.get((shape, _digest(_tensor_bytes(weight))), ()):
                users.setdefault(name, []).append(
                    [
                        AdaptableWeight(name, stored_dtype, shape, transposed, aliases, *rows)
                        for rows, aliases in layers.items()
                    ]
                )
    return tuple(entry for entries in users.values() if len(entries) == 1 for entry in entries[0])


Rows = tuple[tuple[int, int] | None, bool]
"""The first row and the number of rows, or None for all; and whether files have their second half first."""


def _list_parameters(models: Sequence[Any]) -> list[tuple[Tensor, dict[Rows, tuple[str, ...]]]]:
    """The adaptable parameters of models, each with the names of its layers in LoRA files, by their rows.

    A name of layers of several parameters is left out.
    """
    parameters: dict[str, Tensor] = {}
    layers: dict[str, dict[Rows, list[str]]] = {}
    owners: dict[str, set[str]] = {}
    for number, model in enumerate(models):
        weights = dict(model.named_parameters()) if hasattr(model, ADAPTABLE_METHOD) else {}
        for alias, location in (getattr(model, ADAPTABLE_METHOD)() if weights else {}).items():
            name, rows = _read_location(location)
            key = f"{number}.{name}"
            parameters[key] = weights[name]
            layers.setdefault(key, {}).setdefault(rows, []).append(alias)
            owners.setdefault(alias, set()).add(key)
    unique = {
        key: {rows: tuple(alias for alias in aliases if owners[alias] == {key}) for rows, aliases in by_rows.items()}
        for key, by_rows in layers.items()
    }
    return [
        (tensor, {rows: aliases for rows, aliases in unique[key].items() if aliases})
        for key, tensor in parameters.items()
    ]


def _read_location(location: str | WeightRows) -> tuple[str, Rows]:
    """The name of a parameter, and its rows."""
    if isinstance(location, str):
        return location, (None, False)
    rows = None if location.count is None else (location.start, location.count)
    return location.layer, (rows, location.swapped)


def _list_stored_forms(weight: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """The forms in which a graph may store a weight, each with whether it is (in, out): unchanged, or as a matrix."""
    yield weight, False
    matrix = weight.flatten(1) if weight.ndim > 2 else weight
    if matrix.shape[1] == weight.shape[1]:
        if weight.ndim > 2:
            yield matrix, False
        yield matrix.t(), True


def _names_by_content(part: TracedPart) -> dict[tuple[tuple[int, ...], bytes], list[str]]:
    names: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, value in part.model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < LEAST_BYTES:
            continue
        shape = tuple(tensor.shape.numpy())
        names.setdefault((shape, _digest(tensor.tobytes())), []).append(str(name))
    return names


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _tensor_bytes(tensor: Tensor) -> Any:
    return tensor.view(torch.uint8).numpy().data


def make_weight_table(
    weights_by_part: Mapping[str, Iterable[AdaptableWeight]], frozen_layers: Mapping[str, Iterable[str]]
) -> bytes:
    """The contents of a bundle's `ADAPTABLE_TABLE`.

    frozen_layers: names of layers that can no longer be changed, by the reason.
    """
    defaults = {"rows": None, "swapped": False}
    weights = {
        part: [
            {name: value for name, value in asdict(entry).items() if name not in defaults or value != defaults[name]}
            for entry in entries
        ]
        for part, entries in weights_by_part.items()
    }
    return json.dumps(
        {"weights": weights, "frozen": {reason: [*names] for reason, names in frozen_layers.items()}}, indent=1
    ).encode()

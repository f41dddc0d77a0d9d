"""The weights of a graph that a LoRA may change at run time, by their names in LoRA files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from guidegraph.graph.export.onnx.model import TracedPart

ADAPTABLE_METHOD = "adaptable_weights"
"""A method of models: a mapping from the names of layers in LoRA files to the names of the model's parameters."""

LEAST_BYTES = 1024
"""Smaller weights are in the graph itself, not in the data file (see `save_part`)."""


@dataclass(frozen=True)
class AdaptableWeight:
    """An initialiser with one layer's weight. transposed: stored as (in, out). names: of the layer in LoRA files."""

    weight: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool
    names: tuple[str, ...]


def find_adaptable_weights(part: TracedPart, models: Sequence[Any], dtype: Any) -> tuple[AdaptableWeight, ...]:
    """The adaptable weights of models (those with the method ``adaptable_weights``) that the graph has unchanged.

    They are matched by their bytes, since the export does not keep names. Weights of fewer than 1024 bytes, weights in
    another form (8-bit), and weights that several layers share are left out.
    """
    parameters: dict[str, tuple[Tensor, list[str]]] = {}
    owners: dict[str, set[str]] = {}
    for number, model in enumerate(models):
        weights = dict(model.named_parameters()) if hasattr(model, ADAPTABLE_METHOD) else {}
        for alias, name in (getattr(model, ADAPTABLE_METHOD)() if weights else {}).items():
            parameters.setdefault(f"{number}.{name}", (weights[name], []))[1].append(alias)
            owners.setdefault(alias, set()).add(f"{number}.{name}")
    if not parameters:
        return ()
    names_by_content = _names_by_content(part)
    users: dict[str, list[AdaptableWeight]] = {}
    for key, (tensor, aliases) in parameters.items():
        names = tuple(alias for alias in aliases if owners[alias] == {key})
        for stored_as, transposed in _list_stored_forms(tensor):
            weight = stored_as.detach().to(dtype).contiguous().cpu()
            shape = tuple(weight.shape)
            for name in names_by_content.get((shape, _digest(_tensor_bytes(weight))), ()):
                weight_entry = AdaptableWeight(name, str(weight.dtype).removeprefix("torch."), shape, transposed, names)
                users.setdefault(name, []).append(weight_entry)
    return tuple(weight_entry[0] for weight_entry in users.values() if len(weight_entry) == 1 and weight_entry[0].names)


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
    import torch

    return tensor.view(torch.uint8).numpy().data


def make_weight_table(
    weights_by_part: Mapping[str, Iterable[AdaptableWeight]], frozen_layers: Mapping[str, Iterable[str]]
) -> bytes:
    """The contents of a bundle's `ADAPTABLE_TABLE`.

    frozen_layers: names of layers that can no longer be changed, by the reason.
    """
    weights = {part: [asdict(entry) for entry in entries] for part, entries in weights_by_part.items()}
    return json.dumps(
        {"weights": weights, "frozen": {reason: [*names] for reason, names in frozen_layers.items()}}, indent=1
    ).encode()

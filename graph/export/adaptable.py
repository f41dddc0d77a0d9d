"""Where the weights of a graph are that a LoRA may change at run time, by the names that LoRA files have for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from guidegraph.graph.export.part import TracedPart

METHOD = "adaptable_weights"
"""Of a model: the names of its parameters by all the names that files of changes have for their layers."""

LEAST_BYTES = 1024
"""Smaller weights are in the graph itself and not in the file beside it: see `save_part`."""


@dataclass(frozen=True)
class AdaptableWeight:
    """An initialiser that holds one layer's weight. transposed: as (in, out). names: of the layer, in files."""

    weight: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool
    names: tuple[str, ...]


def adaptable_weights(part: TracedPart, models: Sequence[Any], dtype: Any) -> tuple[AdaptableWeight, ...]:
    """The weights of models that say which of theirs may be changed, as far as the graph has them unchanged.

    They are found by their bytes, since names do not outlive the export. Left out are those of fewer than 1024 bytes,
    those that the graph has in another form (8-bit ones), and those that it keeps once for several layers.
    """
    parameters: dict[str, tuple[Tensor, list[str]]] = {}
    owners: dict[str, set[str]] = {}
    for number, model in enumerate(models):
        weights = dict(model.named_parameters()) if hasattr(model, METHOD) else {}
        for alias, name in (getattr(model, METHOD)() if weights else {}).items():
            parameters.setdefault(f"{number}.{name}", (weights[name], []))[1].append(alias)
            owners.setdefault(alias, set()).add(f"{number}.{name}")
    if not parameters:
        return ()
    names_by_content = _names_by_content(part)
    users: dict[str, list[AdaptableWeight]] = {}
    for key, (tensor, aliases) in parameters.items():
        names = tuple(alias for alias in aliases if owners[alias] == {key})
        for stored_as, transposed in _stored_forms(tensor):
            weight = stored_as.detach().to(dtype).contiguous().cpu()
            shape = tuple(weight.shape)
            for name in names_by_content.get((shape, _digest(_tensor_bytes(weight))), ()):
                weight_entry = AdaptableWeight(name, str(weight.dtype).removeprefix("torch."), shape, transposed, names)
                users.setdefault(name, []).append(weight_entry)
    return tuple(weight_entry[0] for weight_entry in users.values() if len(weight_entry) == 1 and weight_entry[0].names)


def _stored_forms(weight: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """A weight as a graph may have it, and whether as (in, out): as it is, or as a matrix that multiplies pixels."""
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


def lora_table(
    weights_by_part: Mapping[str, Iterable[AdaptableWeight]], frozen_layers: Mapping[str, Iterable[str]]
) -> bytes:
    """`lora.json` of a bundle. frozen: names of layers that cannot be changed any more, by why not."""
    weights = {part: [asdict(entry) for entry in entries] for part, entries in weights_by_part.items()}
    return json.dumps(
        {"weights": weights, "frozen": {reason: [*names] for reason, names in frozen_layers.items()}}, indent=1
    ).encode()

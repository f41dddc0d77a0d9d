"""LoRA on an exported graph: add the low-rank updates to the verified weights before the session is created.

So the graph runs as fast as without LoRA, and takes a LoRA of any rank, or several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import ADAPTABLE_TABLE
from guidegraph_runtime.bundle.strict_json import Cursor, parse_json
from guidegraph_runtime.bundle.verify import VerifiedBundle
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.lora.lora_files import Lora
from guidegraph_runtime.lora.pairs import Pair

Array = NDArray[Any]
_STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


@dataclass(frozen=True)
class _Weight:
    """A stored weight, or `rows` of it: the first and how many. swapped: files have the second half of them first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool
    rows: tuple[int, int] | None = None
    swapped: bool = False


Changes: TypeAlias = "dict[str, dict[_Weight, list[tuple[Lora, Pair[Array]]]]]"
"""For each part, its weights that change, each with the pairs that are added to it."""


def adapt_weights(bundle: VerifiedBundle, loras: Sequence[Lora]) -> dict[str, dict[str, bytes]]:
    """For each part that changes, the files of its weights with W + strength · α/r · BA instead of W.

    Raises one ``BundleError`` for a LoRA with a layer that is not in the bundle, or of another shape.
    """
    return {part: _apply_loras(bundle, part, weights) for part, weights in match_layers(bundle, loras).items()}


def match_layers(bundle: VerifiedBundle, loras: Sequence[Lora]) -> Changes:
    """Find the weights that LoRAs change, without a change.

    Raises one ``BundleError`` for a LoRA with a layer that is not in the bundle, or of another shape.
    """
    tables, frozen = _read_table(bundle)
    location = str(bundle.path)
    changes: Changes = {}
    for lora in loras:
        unknown = [layer for layer in lora.pairs if not any(layer in table for table in tables.values())]
        if unknown:
            raise BundleError(location, "bad-lora", _unknown_layers_message(lora, unknown, tables, frozen))
        for layer, pair in lora.pairs.items():
            for part, table in tables.items():
                if layer in table:
                    _check_shapes(location, lora, table[layer], pair)
                    changes.setdefault(part, {}).setdefault(table[layer], []).append((lora, pair))
    return changes


def _unknown_layers_message(
    lora: Lora, unknown: Sequence[str], tables: Mapping[str, Mapping[str, _Weight]], frozen: Mapping[str, str]
) -> str:
    if layer := next((layer for layer in unknown if layer in frozen), None):
        return f"the LoRA '{lora.path}' changes the layer '{layer}', which is fixed in this bundle: {frozen[layer]}"
    if not any(tables.values()):
        return (
            "this bundle has no weights that a LoRA may change: it takes a U-Net, a transformer or a text encoder "
            "of checkpoint.load, in fp32, fp16 or bf16"
        )
    examples = ", ".join(sorted(unknown)[:3]) + (" …" if len(unknown) > 3 else "")
    return (
        f"the LoRA '{lora.path}' is for another model, or for a part that is not in this bundle: {len(unknown)} of its "
        f"{len(lora.pairs)} layers are not here ({examples}); nothing was applied"
    )


def _apply_loras(
    bundle: VerifiedBundle, part: str, weights: Mapping[_Weight, Iterable[tuple[Lora, Pair[Array]]]]
) -> dict[str, bytes]:
    stored_weights = {tensor.name: tensor for tensor in bundle.graphs[part].externals}
    files = bundle.externals(part)
    changed: dict[str, bytearray] = {}
    for weight, pairs in weights.items():
        location = str(bundle.path / ADAPTABLE_TABLE)
        if weight.name not in stored_weights:
            message = (
                f"no weight '{weight.name}' in the files of part '{part}'; {suggest_name(weight.name, stored_weights)}"
            )
            raise BundleError(location, "bad-lora-table", message)
        external = stored_weights[weight.name]
        stored = np.dtype(_STORED[weight.dtype])
        if external.size != int(np.prod(weight.shape)) * stored.itemsize:
            message = f"the weight '{weight.name}' of {external.size} bytes is not {weight.shape} of {weight.dtype}"
            raise BundleError(location, "bad-lora-table", message)
        data = changed.setdefault(external.location, bytearray(files[external.location]))
        array = np.frombuffer(data, stored, int(np.prod(weight.shape)), external.offset).reshape(weight.shape)
        values = (array.astype("<u4") << 16).view("<f4") if weight.dtype == "bfloat16" else array.astype(np.float32)
        matrix = values.T if weight.transposed else values  # (out, in, …), a view
        first, count = weight.rows or (0, len(matrix))
        for lora, pair in pairs:
            matrix[first : first + count] += np.float32(lora.strength) * _weight_update(weight, pair)
        array[...] = _bfloat16(values) if weight.dtype == "bfloat16" else values.astype(stored)
    return {**files, **{name: bytes(data) for name, data in changed.items()}}


def _shape_of_update(weight: _Weight) -> tuple[int, ...]:
    """The shape (out, in, …) of the weight, or of the rows that are the layer."""
    shape = weight.shape[::-1] if weight.transposed else weight.shape
    return shape if weight.rows is None else (weight.rows[1], *shape[1:])


def _check_shapes(location: str, lora: Lora, weight: _Weight, pair: Pair[Array]) -> None:
    """Raise ``BundleError`` unless the product of the factors has the shape of the weight."""
    shape, up, down = _shape_of_update(weight), pair.up.shape, pair.down.shape
    if (up[0], math.prod(down[1:]), math.prod(up[1:])) != (shape[0], math.prod(shape[1:]), down[0]):
        message = (
            f"the LoRA '{lora.path}' is for another model: its factors {up} and {down} do not make a weight {shape}; "
            "nothing was applied"
        )
        raise BundleError(location, "bad-lora", message)


def _weight_update(weight: _Weight, pair: Pair[Array]) -> Array:
    """α/r · BA (out, in, …) of the weight, or of the rows that are the layer."""
    up, down = (factor.astype(np.float32).reshape(factor.shape[0], -1) for factor in (pair.up, pair.down))
    product: Array = (np.float32(pair.scale) * (up @ down)).reshape(_shape_of_update(weight))
    return np.concatenate(np.array_split(product, 2)[::-1]) if weight.swapped else product


def _bfloat16(values: Array) -> Array:
    """Round float32 values to bfloat16, ties to even, as the upper 16 bits."""
    bits = np.ascontiguousarray(values, np.float32).view("<u4")
    rounded: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def _read_table(bundle: VerifiedBundle) -> tuple[dict[str, dict[str, _Weight]], dict[str, str]]:
    """For each part, its weights by layer name; and for other layers, why they are fixed. Raises ``BundleError``."""
    if ADAPTABLE_TABLE not in bundle.manifest.files:
        return {}, {}
    location = str(bundle.path / ADAPTABLE_TABLE)
    top = Cursor(parse_json(bundle.data(ADAPTABLE_TABLE), location), location).fields(["weights", "frozen"])
    reasons = top["frozen"].entries(lambda name: None)
    frozen = {name.text(): why for why, names in reasons for name in names.items()}
    weights_of_part: dict[str, dict[str, _Weight]] = {}
    parts = bundle.manifest.parts
    for part, rows in top["weights"].entries(lambda name: None if name in parts else "the name of a part"):
        for row in rows.items():
            fields = row.fields(["weight", "dtype", "shape", "transposed", "names"], ["rows", "swapped"])
            shape = tuple(size.integer(1, 2**31) for size in fields["shape"].items())
            transposed = fields["transposed"].boolean()
            weight = _Weight(
                fields["weight"].text(),
                fields["dtype"].choice(_STORED),
                shape,
                transposed,
                _read_rows(fields["rows"], shape[-1 if transposed else 0]) if "rows" in fields else None,
                "swapped" in fields and fields["swapped"].boolean(),
            )
            weights_of_part.setdefault(part, {}).update({name.text(): weight for name in fields["names"].items()})
    return weights_of_part, frozen


def _read_rows(field: Cursor, count: int) -> tuple[int, int]:
    """The first row and the number of rows of a weight with `count`. Raises ``BundleError`` for rows beyond it."""
    numbers = [number.integer(0, count) for number in field.items()]
    if len(numbers) != 2 or numbers[1] < 1 or sum(numbers) > count:
        field.fail(f"the first row and the number of rows of a weight with {count}", str(numbers))
    return numbers[0], numbers[1]

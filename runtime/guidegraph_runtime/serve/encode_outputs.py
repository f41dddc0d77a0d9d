"""The outputs of a job as JSON: pictures as PNG in base64, tensors as safetensors in base64, numbers as they are."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from guidegraph_runtime.outputs import plain_table, split_pictures
from guidegraph_runtime.pictures.png import encode_png
from guidegraph_runtime.record import make_record
from guidegraph_runtime.running.bundle import Bundle


def encode_outputs(
    bundle: Bundle, params: Mapping[str, Any], nodes: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Any], int]:
    """Outputs by name as JSON, and their size in bytes.

    An image is ``{"type": "image", "data": [{"b64_json": …}, …]}``, one entry for each picture of the batch, whose PNG
    carries the bundle and the parameters as one of ``guidegraph-run`` does. A tensor is
    ``{"type": "tensor", "safetensors": …}`` with its name as the key, numbers and tables, as dicts
    of their columns, are ``{"type": "table", "value": …}``.
    Raises ``ValueError`` for values that cannot be written.
    """
    record = make_record(bundle, params, nodes, None)
    encoded: dict[str, Any] = {}
    size = 0
    for name, value in outputs.items():
        kind = bundle.manifest.outputs[name].type
        if kind == "image":
            pictures = _encode_pictures(name, value, record.text)
            encoded[name] = {"type": kind, "data": [{"b64_json": text} for text in pictures]}
            size += sum(map(len, pictures))
        elif kind == "table" or value.dtype.kind in "US":
            encoded[name] = {"type": "table", "value": plain_table(value)}
            size += value.nbytes
        else:
            from safetensors.numpy import save

            text = b64encode(save({name: value})).decode()
            encoded[name] = {"type": kind, "safetensors": text}
            size += len(text)
    return encoded, size


def _encode_pictures(name: str, value: NDArray[Any], text: Any) -> list[str]:
    try:
        pictures = split_pictures(value)
        return [
            b64encode(encode_png(picture, text(name, i, len(pictures)))).decode() for i, picture in enumerate(pictures)
        ]
    except ValueError as error:
        raise ValueError(f"output '{name}' {error}") from error

"""The shape of noise that is like a value inside a graph follows from those axes of other values that are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.single_file.host_prelude import DrawnInput, HostPrelude
from guidegraph.graph.export.single_file.write import DrawnShapes
from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.running.rehearse import Axis

IDS = np.zeros((2, 48))
LOOP = {
    "over": 4,
    "item": "t",
    "index": "i",
    "next": {"x": "next"},
    "result": {"drawn": "x"},
}
LIKE_TOLD = DrawnInput(Operation("noise.gaussian", "other", {"like": "told"}, outputs=("other",)), None)
FRESH = DrawnInput(Operation("noise.gaussian", "fresh", {"like": "x"}, outputs=("fresh",)), None)


def make_part(name: str, inputs: dict[str, Any], outputs: dict[str, Any], **sources: str) -> tuple[Operation, Any]:
    operation = Operation("part", name, {port: sources.get(port, port) for port in inputs}, outputs=(*outputs,))
    return operation, SimpleNamespace(inputs=inputs, outputs=outputs)


def make_shapes(tokens: int | str) -> DrawnShapes:
    """A prompt's tokens (their number fixed by the encoder, or free), and a loop that reads them."""
    start = DrawnInput(Operation("noise.gaussian", "start", {"like": "told"}, outputs=("start",)), None)
    encode, encoder = make_part("encode", {"ids": ("samples", 48)}, {"text": ("samples", tokens, 8)})
    join, joiner = make_part("join", {"text": ("batch", "tokens", 8)}, {"told": ("batch", "tokens", 8)})
    step, stepper = make_part("step", {"x": ("batch", 4), "told": ("batch", "tokens", 8)}, {"next": ("batch", 4)})
    loop = Operation("loop", "sample", {"x": "start"}, LOOP, ("drawn",), (step,))
    parts = {"encode": encoder, "join": joiner, "step": stepper}
    prelude = HostPrelude([], {"start": start, "fresh": FRESH})
    return DrawnShapes([encode, join, loop], parts, prelude, {"ids": IDS})


def test_the_batch_of_tokens_is_known_where_their_number_is_fixed() -> None:
    shape = make_shapes(48).shape_of(FRESH)
    assert shape is not None
    assert [(size.text, dict(size.of)) for size in shape] == [("batch", {"batch": (Axis("ids", 0),)}), ("4", {})]


def test_a_fixed_size_is_that_of_every_axis_that_follows_from_it() -> None:
    shape = make_shapes(48).shape_of(LIKE_TOLD)
    assert shape is not None
    assert [size.value({"ids": (2, 48)}) for size in shape] == [2, 48, 8]


def test_an_axis_that_no_input_tells_is_named() -> None:
    with pytest.raises(ExportError, match=r"drawn like 'told', .* \('encode' has no axis 'free'\)"):
        make_shapes("free").shape_of(LIKE_TOLD)

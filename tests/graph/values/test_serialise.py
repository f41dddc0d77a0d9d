"""Values as tensors and JSON: the names of types in files of earlier versions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from guidegraph.graph import types
from guidegraph.graph.types import structured
from guidegraph.graph.values.serialise import decode, encode
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.metrics.frechet import Moments


@pytest.fixture(autouse=True)
def restore_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "_STRUCTURED", [*types._STRUCTURED])
    monkeypatch.setattr(types, "_FORMER_NAMES", dict(types._FORMER_NAMES))


def test_a_moved_type_is_written_by_its_present_name_and_read_by_both() -> None:
    @structured(formerly=["old.room.Pair"])
    @dataclasses.dataclass(frozen=True)
    class Pair:
        left: torch.Tensor
        right: int

    tensors, tree = encode(Pair(torch.ones(2), 3))
    assert tree["struct"] == f"{Pair.__module__}.{Pair.__qualname__}"
    for name in (tree["struct"], "old.room.Pair"):
        value = decode(tree | {"struct": name}, tensors)
        assert type(value) is Pair
        assert value.right == 3


@pytest.mark.parametrize("name", ["old.room.Other", "", "builtins.dict"])
def test_an_unknown_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown structured type"):
        decode({"struct": name, "fields": {}}, {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("guidegraph.nodes.frechet.Moments", Moments), ("guidegraph.nodes.step_context.StepContext", StepContext)],
)
def test_types_that_moved_into_rooms_keep_their_former_names(name: str, expected: type) -> None:
    assert types.find_structured_type(name) is expected

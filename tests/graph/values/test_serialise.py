"""Values as tensors and JSON: the names of types in files of earlier versions."""

from __future__ import annotations

import pytest
import torch

from guidegraph.graph.values.serialise import decode, encode


@pytest.mark.parametrize("name", ["old.room.Other", "", "builtins.dict"])
def test_an_unknown_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown structured type"):
        decode({"struct": name, "fields": {}}, {})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(6.0).reshape(2, 3),
        torch.zeros(()),
    ],
)
def test_a_tensor_keeps_the_order_of_its_axes_in_memory(tensor: torch.Tensor) -> None:
    tensors, tree = encode([tensor])
    assert all(stored.is_contiguous() for stored in tensors.values())
    (decoded,) = decode(tree, tensors)
    assert torch.equal(decoded, tensor)
    assert decoded.stride() == tensor.stride()


def test_a_tensor_with_gaps_or_repeats_in_memory_becomes_contiguous() -> None:
    for tensor in (torch.arange(12.0).reshape(3, 4)[:, ::2], torch.ones(1, 3).expand(2, 3)):
        tensors, tree = encode(tensor)
        assert torch.equal(decode(tree, tensors), tensor)
        assert decode(tree, tensors).is_contiguous()


@pytest.mark.parametrize("axes", [[0, 0], [0], [0, 2], "01", None])
def test_axes_that_are_no_order_are_refused(axes: object) -> None:
    with pytest.raises(ValueError, match="expected an order of 2 axes, found"):
        decode({"permuted": "t0", "axes": axes}, {"t0": torch.zeros(2, 3)})

"""Which parameters of a module are trained, by its own word."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from guidegraph.graph.training.trained_model import (
    get_trained_state,
    list_frozen_names,
    list_trained_parameters,
    live_copy,
    load_trained_state,
)

CPU = torch.device("cpu")


class Partly(nn.Module):
    def __init__(self, trained: Sequence[str]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)
        self.register_buffer("count", torch.zeros(()))
        self.trained = trained
        self.requires_grad_(False)

    def trainable_names(self) -> Sequence[str]:
        return self.trained


def test_a_module_without_a_word_is_trained_whole() -> None:
    module = nn.Linear(2, 3).requires_grad_(False)
    live = live_copy(module, CPU)
    assert list_frozen_names(module) == frozenset()
    assert len(list_trained_parameters(live)) == 2
    assert not any(a is b for a, b in zip(module.parameters(), live.parameters(), strict=True))


def test_what_is_not_named_is_shared_and_not_in_the_state() -> None:
    module = Partly(["second.weight"])
    live = live_copy(module, CPU)
    shared = {name for (name, a), b in zip(module.named_parameters(), live.parameters(), strict=True) if a is b}
    assert shared == {"first.weight", "first.bias", "second.bias"}
    assert [tuple(p.shape) for p in list_trained_parameters(live)] == [(1, 3)]
    assert set(get_trained_state(live)) == {"second.weight", "count"}
    other = Partly(["second.weight"])
    load_trained_state(other, get_trained_state(live))
    assert torch.equal(other.second.weight, live.get_parameter("second.weight"))
    assert not torch.equal(other.first.weight, live.get_parameter("first.weight"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_trained_in_float32_unless_others_are_frozen(dtype: torch.dtype) -> None:
    whole = Partly([name for name, _ in Partly([]).named_parameters()]).to(dtype)
    assert {tensor.dtype for tensor in live_copy(whole, CPU).state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in whole.state_dict().values()} == {dtype}
    some = Partly(["second.weight"]).to(dtype)
    assert {tensor.dtype for tensor in live_copy(some, CPU).state_dict().values()} == {dtype}


def test_weights_of_64_bits_are_trained_as_they_are() -> None:
    assert live_copy(nn.Linear(2, 3).double(), CPU).get_parameter("weight").dtype == torch.float64


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"missing: second\.weight; unexpected: third"):
        load_trained_state(Partly(["second.weight"]), {"count": torch.zeros(()), "third": torch.zeros(1)})


def test_names_that_are_none_and_none_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Partly\.trainable_names names third, which is none of its parameters"):
        list_frozen_names(Partly(["third"]))
    with pytest.raises(ValueError, match="there is nothing to train"):
        list_frozen_names(Partly([]))

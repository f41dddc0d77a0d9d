"""text.scale_positions: an encoder that hears more of the order of words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.conditioning.text_prompt import encode_text, scale_positions
from guidegraph.nodes.models.model_nodes import new_text_transformer
from guidegraph.nodes.types import TextEmbedder
from guidegraph_testing import example


@pytest.fixture
def text() -> Any:
    return new_text_transformer(words=["car", "red", "tiger"], width=16, layers=1, heads=2)


def tokens(embedder: Any, prompt: str) -> Tensor:
    actual = encode_text(embedder, prompt).tokens
    assert actual is not None
    return actual


def measure_move(embedder: Any) -> float:
    """How much the token of a word depends on its place."""
    return float((tokens(embedder, "red car")[0, 1] - tokens(embedder, "car red")[0, 2]).norm())


def test_larger_positions_tell_orders_of_words_further_apart(text: Any) -> None:
    before = tokens(text, "red car")
    assert measure_move(scale_positions(text, factor=50.0)) > 5 * measure_move(text)
    torch.testing.assert_close(tokens(text, "red car"), before, rtol=0, atol=0)


def test_a_factor_of_one_changes_nothing(text: Any) -> None:
    torch.testing.assert_close(tokens(scale_positions(text), "red car"), tokens(text, "red car"), rtol=0, atol=0)


def test_other_embedders_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected a text encoder of model.text_transformer; found \w+"):
        scale_positions(example(TextEmbedder), factor=2.0)

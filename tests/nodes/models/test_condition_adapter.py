"""The condition adapter: widths, masks, saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.conditioning.condition import adapt_condition
from guidegraph.nodes.models import model_nodes as model
from guidegraph.nodes.types import Condition
from tests.tolerance import assert_same_up_to_rounding, terms_of


@pytest.fixture
def adapter() -> Any:
    return model.new_condition_adapter(seed=1, tokens=12, vector=6, width=16, layers=2)


def condition(batch: int = 2, length: int = 5, counted: int = 3) -> Condition:
    torch.manual_seed(0)
    mask = (torch.arange(length) < counted).expand(batch, -1)
    return Condition(vector=torch.randn(batch, 6), tokens=torch.randn(batch, length, 12), mask=mask)


def test_outputs_have_the_denoisers_widths_and_are_normalised(adapter: Any) -> None:
    source = condition()
    adapted = adapt_condition(adapter, source)
    assert adapted.vector is not None
    assert adapted.tokens is not None
    assert adapted.vector.shape == (2, 16)
    assert adapted.tokens.shape == (2, 5, 16)
    assert adapted.mask is source.mask
    torch.testing.assert_close(adapted.tokens.mean(-1), torch.zeros(2, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(adapted.tokens.var(-1, correction=0), torch.ones(2, 5), atol=1e-2, rtol=0)


def test_padding_does_not_change_other_tokens(adapter: Any) -> None:
    short, long = condition(length=5), condition(length=5)
    assert long.tokens is not None
    noisy = long.tokens.clone()
    noisy[:, 3:] *= -1
    changed = Condition(vector=long.vector, tokens=noisy, mask=long.mask)
    before, after = adapt_condition(adapter, short).tokens, adapt_condition(adapter, changed).tokens
    assert before is not None
    assert after is not None
    assert_same_up_to_rounding(after[:, :3], before[:, :3], terms_of(adapter))
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 0.1


def test_without_a_mask_all_tokens_are_used(adapter: Any) -> None:
    source = condition(counted=5)
    bare = Condition(vector=source.vector, tokens=source.tokens)
    torch.testing.assert_close(adapt_condition(adapter, bare).tokens, adapt_condition(adapter, source).tokens)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Condition(tokens=torch.zeros(1, 2, 12)), "with vector of width 6; found none"),
        (Condition(vector=torch.zeros(1, 6), tokens=torch.zeros(1, 2, 11)), "with tokens of width 12; found width 11"),
    ],
)
def test_a_condition_of_another_encoder_is_refused(adapter: Any, source: Condition, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt_condition(adapter, source)


def test_a_saved_adapter_loads_unchanged(adapter: Any, tmp_path: Path) -> None:
    model.save_model(adapter=adapter, path=tmp_path, dtype="float32")
    before, after = (
        adapt_condition(adapter, condition()),
        adapt_condition(model.load_model(path=tmp_path).adapter, condition()),
    )
    assert before.vector is not None
    assert before.tokens is not None
    assert torch.equal(before.vector, after.vector)  # type: ignore[arg-type]
    assert torch.equal(before.tokens, after.tokens)  # type: ignore[arg-type]

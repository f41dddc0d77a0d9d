"""Attention equals its definition, also where the CPU's policy adds masked keys or widens heads, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from guidegraph.graph.hardware import policy
from guidegraph.graph.hardware.policy import PADDED_LOGITS
from guidegraph.nodes.models.networks.attention import attention, attention_weights, choose_spare


@pytest.fixture(autouse=True)
def avx512(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor for whose kernels keys are added; the values are the same on any."""
    monkeypatch.setattr(policy, "vectorises_in_avx512", lambda: True)
    choose_spare.cache_clear()
    yield
    choose_spare.cache_clear()


@pytest.fixture
def key_shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The number and the width of the keys in each call of torch's kernel."""
    shapes: list[tuple[int, int]] = []
    kernel = F.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        shapes.append((key.shape[2], key.shape[3]))
        return kernel(query, key, value, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    return shapes


def make_narrow(width: int, keys: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Heads with enough queries to be widened from 128 keys on."""
    generator = torch.Generator().manual_seed(width)
    query, key, value = (
        torch.randn(2, n, 3, width, generator=generator).transpose(1, 2) for n in (PADDED_LOGITS // 128, keys, keys)
    )
    return query, key, value


def make_inputs(keys: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(keys)
    # (B, L, heads, D) transposed, as the layers have them
    query, key, value = (torch.randn(2, n, 3, 8, generator=generator, dtype=dtype) for n in (20, keys, keys))
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


@pytest.mark.parametrize("keys", [112, 128, 256])
@pytest.mark.parametrize("width", [1, 8, 9, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_narrow_heads_are_widened_for_many_pairs(
    keys: int, width: int, masked: bool, key_shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "is_amd", lambda: True)
    query, key, value = make_narrow(width, keys)
    mask = torch.arange(keys) < torch.tensor([[keys], [keys - 3]]) if masked else None
    attended = attention(query, key, value, mask)
    torch.testing.assert_close(attended, attention_weights(query, key, mask) @ value, rtol=0, atol=3e-6)
    assert attended.shape == query.shape
    assert key_shapes == [(keys, 16 if width <= 8 and keys >= 128 else width)]


def test_heads_stay_narrow_with_gradients_in_traces_and_in_other_dtypes(
    key_shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "is_amd", lambda: True)
    query, key, value = make_narrow(8)
    attention(query.double(), key.double(), value.double())
    attention(query.clone().requires_grad_(), key, value)
    make_fx(lambda *tensors: attention(*tensors))(query, key, value)
    torch.func.vmap(attention)(query[None], key[None], value[None])
    attention(query, key, torch.cat([value, value], dim=3))
    assert key_shapes == [(128, 8)] * 5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("keys", "padded"), [(8, 16), (15, 16), (16, 16), (23, 23), (24, 32), (77, 80), (154, 160), (155, 160), (171, 171)]
)
def test_a_short_list_of_keys_is_filled_up(
    keys: int, padded: int, masked: bool, key_shapes: list[tuple[int, int]]
) -> None:
    query, key, value = make_inputs(keys)
    mask = torch.arange(keys) < torch.tensor([[keys], [keys - 3]]) if masked else None
    expected = attention_weights(query, key, mask) @ value
    for _ in range(2):
        torch.testing.assert_close(attention(query, key, value, mask), expected, rtol=0, atol=2e-6)
    assert key_shapes == [(padded, 8)] * 2


def test_other_dtypes_and_gradients_see_their_own_keys(key_shapes: list[tuple[int, int]]) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        attention(*make_inputs(77, dtype))
    query, key, value = make_inputs(77)
    attention(query.requires_grad_(), key, value)
    attention(query.detach(), key, value.requires_grad_())
    with torch.no_grad():
        attention(*make_inputs(77))
    with torch.inference_mode():
        attention(*make_inputs(77))
    assert [keys for keys, _ in key_shapes] == [77, 77, 77, 77, 80, 80]


def test_a_trace_sees_its_own_keys(key_shapes: list[tuple[int, int]]) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value)

    make_fx(attend)(*make_inputs(77))
    torch.func.vmap(attend)(*(tensor[None] for tensor in make_inputs(77)))
    assert key_shapes == [(77, 8)] * 2


def test_a_mask_made_in_inference_mode_is_used_outside_of_it() -> None:
    inputs = make_inputs(29)
    with torch.inference_mode():
        inside = attention(*inputs)
    torch.testing.assert_close(attention(*inputs), inside.clone(), rtol=0, atol=0)


def test_other_defaults_of_torch_change_nothing() -> None:
    query, key, value = make_inputs(45)
    expected = attention_weights(query, key) @ value
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            inside = attention(query, key, value)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(inside, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(attention(query, key, value), expected, rtol=0, atol=2e-6)

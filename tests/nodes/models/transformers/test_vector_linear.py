"""Linear layers of an embedding: a product with a vector where the policy has it, and a plain `Linear` elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.hardware.policy import ComputePolicy
from guidegraph.nodes.models.networks.low_rank import add_low_rank
from guidegraph_families.flux.network import VectorLinear


@pytest.fixture
def vector_products(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The vectors of all products with one, on a CPU for which the policy has them for one row in any dtype."""
    vectors: list[Tensor] = []
    multiply = torch.addmv

    def record(bias: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
        vectors.append(vector)
        return multiply(bias, weight, vector)

    monkeypatch.setattr(torch, "addmv", record)
    monkeypatch.setattr(ComputePolicy, "multiplies_by_vector", lambda self, dtype, rows: rows == 1)
    return vectors


def make_layer(dtype: torch.dtype = torch.float64) -> VectorLinear:
    torch.manual_seed(0)
    return VectorLinear(48, 80).to(dtype).requires_grad_(False)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.bfloat16, 2**-7)])
def test_one_row_gives_what_a_linear_layer_gives(
    vector_products: list[Tensor], dtype: torch.dtype, bound: float
) -> None:
    layer, x = make_layer(dtype), torch.randn(1, 48).to(dtype)
    result = layer(x)
    assert [tuple(vector.shape) for vector in vector_products] == [(48,)]
    assert (result.shape, result.dtype) == ((1, 80), dtype)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert (result.double() - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.parametrize("shape", [(2, 48), (1, 1, 48), (48,), (0, 48)])
def test_other_shapes_are_those_of_a_linear_layer(vector_products: list[Tensor], shape: tuple[int, ...]) -> None:
    layer, x = make_layer(), torch.randn(shape, dtype=torch.float64)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not vector_products


def test_gradients_are_those_of_a_linear_layer(vector_products: list[Tensor]) -> None:
    layer, x = make_layer(), torch.randn(1, 48, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.allclose(gradient[0], layer.weight.sum(0))
    layer.requires_grad_(True)(x.detach()).sum().backward()
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad[0], x.detach()[0])
    assert not vector_products


def test_a_traced_layer_takes_any_batch(vector_products: list[Tensor]) -> None:
    layer = make_layer()
    batch = torch.export.Dim.AUTO
    program: Any = torch.export.export(layer, (torch.randn(3, 48, dtype=torch.float64),), dynamic_shapes=({0: batch},))
    x = torch.randn(1, 48, dtype=torch.float64)
    assert torch.allclose(program.module()(x), F.linear(x, layer.weight, layer.bias))
    mapped = torch.vmap(layer)(torch.randn(4, 1, 48, dtype=torch.float64))
    assert mapped.shape == (4, 1, 80)
    assert not vector_products


def test_a_low_rank_change_adds_to_a_product_with_a_vector(vector_products: list[Tensor]) -> None:
    changed = add_low_rank(nn.ModuleDict({"lin": make_layer()}), ["lin"], rank=2, alpha=2.0, seed=0)
    layer: Any = changed["lin"]
    layer.lora_B.normal_()
    x = torch.randn(1, 48, dtype=torch.float64)
    result = layer(x)
    assert len(vector_products) == 1
    assert torch.allclose(result, F.linear(x, layer.weight, layer.bias))

"""The bound on rounding accepts rounding errors and nothing larger."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tolerance import assert_same_up_to_rounding, rounding, terms_of


def sums(terms: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """A thousand sums of random terms, of the same in reverse order, and the largest sum of magnitudes."""
    values = torch.randn(1000, terms, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    forwards, backwards = torch.zeros(1000, dtype=dtype), torch.zeros(1000, dtype=dtype)
    for i in range(terms):
        forwards += values[:, i]
        backwards += values[:, terms - 1 - i]
    return forwards, backwards, float(values.abs().sum(1).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("terms", [10, 1000])
def test_another_order_of_a_sum_is_rounding(terms: int, dtype: torch.dtype) -> None:
    forwards, backwards, scale = sums(terms, dtype)
    assert not torch.equal(forwards, backwards)
    assert_same_up_to_rounding(forwards, backwards, terms, scale)


def test_another_weight_is_more_than_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(8, 64, generator=generator)
    other = nn.Linear(64, 32, bias=False)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.weight[0] += 1e-3
        with pytest.raises(AssertionError, match="not close"):
            assert_same_up_to_rounding(other(x), layer(x), terms_of(layer))
        assert_same_up_to_rounding(layer(x), layer(x.double().float()), terms_of(layer))


def test_the_terms_of_a_network_are_those_of_its_layers() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, 2))
    assert terms_of(network) == (4 * 9 + 1) + (1 + 1) + (8 + 1)


def test_the_bound_is_that_of_the_dtype_and_grows_with_the_root_of_the_terms() -> None:
    assert rounding(torch.float32, 400) == 2 * rounding(torch.float32, 100) == 80 * torch.finfo(torch.float32).eps
    assert rounding(torch.float64, 1, 3.0) == pytest.approx(12 * 2.0**-52)

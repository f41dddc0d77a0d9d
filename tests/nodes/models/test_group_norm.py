"""The group norm of the networks is torch's, with its parameters and its error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guidegraph.nodes.models.own.layers import GroupNorm


@pytest.mark.parametrize("shape", [(2, 6), (3, 6, 5), (2, 6, 4, 3), (1, 6, 1, 1), (0, 6, 4, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_it_is_torchs_group_norm(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    own, torchs = (kind(3, 6, eps=1e-3, affine=affine).double() for kind in (GroupNorm, nn.GroupNorm))
    if affine:
        nn.init.normal_(own.weight)
        nn.init.normal_(own.bias)
    torchs.load_state_dict(own.state_dict())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for memory in (x, x.flip(-1)):
        torch.testing.assert_close(own(memory), torchs(memory), rtol=0, atol=0)
    gradients = [torch.autograd.grad(norm(x).square().sum(), x)[0] for norm in (own, torchs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_group_of_one_value_is_torchs_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GroupNorm(6, 6)(torch.zeros(1, 6, 1, 1))

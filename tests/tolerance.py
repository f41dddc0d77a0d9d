"""Tolerances that come from the arithmetic: how far rounding alone takes two results of one computation apart.

Two machines, or one with its tensors elsewhere in memory, add the same terms in another order. The rounding errors of n
terms are, with probability close to 1, no larger than λ √n u Σ|terms|, where u is half of the dtype's eps and λ a small
constant (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019).
Each of the two results may be off by that much, so that they differ by no more than λ √n eps Σ|terms|.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LAMBDA = 4
"""A sum leaves the bound with a probability of at most 2 exp(−λ²/2), 7 in 10,000; in practice it is far inside."""


def rounding(dtype: torch.dtype, terms: int, scale: float = 1.0) -> float:
    """The largest difference of two sums of the same number of `terms` in different orders.

    terms: how many roundings lie on the way from the inputs to a result. scale: the size of what is rounded: of the
    sum of the magnitudes, or of the result where layers are normalised and nothing cancels.
    """
    return LAMBDA * math.sqrt(terms) * torch.finfo(dtype).eps * scale


def terms_of(*networks: nn.Module) -> int:
    """The terms that a result of networks, one after the other, has seen: those of the sum in each weighted layer."""
    return sum(_fan_in(weight) for network in networks for weight in network.parameters())


def _fan_in(weight: Tensor) -> int:
    """The terms of one output of a layer: all of a weight's axes but the first; one for a bias or a gain."""
    return math.prod(weight.shape[1:])


def assert_same_up_to_rounding(actual: Tensor, expected: Tensor, terms: int, scale: float | None = None) -> None:
    """Assert that two float tensors are results of one computation of `terms` roundings in another order.

    scale: see `rounding`; the largest expected value where it is left out. Raises ``AssertionError``.
    """
    size = float(expected.detach().abs().max()) if scale is None else scale
    torch.testing.assert_close(actual, expected, rtol=0, atol=rounding(expected.dtype, terms, size))

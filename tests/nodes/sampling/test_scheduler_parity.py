"""Each sampler against diffusers, in float64, on the same grid, with the closed-form denoiser: 1e-5 of max |x|."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("scipy")  # their LMS

from tests.nodes.sampling.parity import Case, cases

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_a_sampler_is_that_of_diffusers_on_the_same_grid(case: Case) -> None:
    difference = case.compare()
    assert difference.grid <= case.tolerance
    assert difference.sample < 1e-5

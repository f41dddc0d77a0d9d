"""The project's noise: fixed numbers, and one stream per sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegraph_runtime.noise import gaussian, raw_bits, sample_seeds

SEEDS = st.integers(0, 2**64 - 1)
DRAWS = st.none() | st.integers(0, 2**64 - 2)


# Computed once and never to change: every picture that was ever made depends on them.
FROZEN = {
    (0, None): [
        0.15853384137153625,
        2.982879400253296,
        -1.9256919622421265,
        -0.8249255418777466,
        -0.2025032788515091,
        1.1557642221450806,
        0.3302045166492462,
        -0.028982948511838913,
    ],
    (0, 0): [
        0.864948570728302,
        0.36483633518218994,
        -1.0867525339126587,
        1.747602105140686,
        -0.7850782871246338,
        0.3801415264606476,
        -0.19474104046821594,
        -0.5600008368492126,
    ],
    (0, 1): [
        -0.25814107060432434,
        0.009681115858256817,
        0.07771135866641998,
        1.5214650630950928,
        -1.372306227684021,
        0.21096274256706238,
        -1.5115666389465332,
        -0.8241204619407654,
    ],
    (2**64 - 1, None): [-0.3471274971961975, -1.666235089302063, -0.2814759612083435, -1.3031625747680664],
}


@pytest.mark.parametrize(("seed", "index"), FROZEN)
def test_frozen_values(seed: int, index: int | None) -> None:
    values = FROZEN[seed, index]
    # One unit in the last place is left to the platform's log, sin and cos.
    np.testing.assert_allclose(gaussian(seed, [len(values)], index=index)[0], np.float32(values), rtol=2e-7, atol=0)


def test_frozen_bits() -> None:
    """Philox4x64-10 with key 0, whose counter NumPy advances before the first block: no other library is needed."""
    assert raw_bits(0, 2).tolist() == [0x02F4BA6408E4D89B, 0x3DD62B0B9CA8C5B2]
    assert raw_bits(7, 5, 3).tolist() == np.random.Philox(key=[7, 0], counter=[0, 0, 4, 0]).random_raw(5).tolist()


def test_shape_and_type() -> None:
    noise = gaussian(3, (4, 16, 16), batch=2)
    assert noise.shape == (2, 4, 16, 16)
    assert noise.dtype == np.float32
    assert noise.flags.c_contiguous
    assert gaussian(3, []).shape == (1,)
    assert gaussian(3, [0, 5]).shape == (1, 0, 5)


@given(seed=st.integers(0, 2**64 - 9), batch=st.integers(1, 8), size=st.integers(0, 9), index=DRAWS)
def test_sample_i_of_seed_s_is_the_sample_of_seed_s_plus_i(seed: int, batch: int, size: int, index: int | None) -> None:
    together = gaussian(seed, [size, 3], batch, index)
    for i in range(batch):
        assert (together[i] == gaussian(seed + i, [size, 3], 1, index)[0]).all()


def test_list_of_seeds() -> None:
    noise = gaussian([5, 2, 5], [7])
    assert (noise[0] == gaussian(5, [7])[0]).all()
    assert (noise[1] == gaussian(2, [7])[0]).all()
    assert (noise[0] == noise[2]).all()
    assert (noise == gaussian(np.array([5, 2, 5]), [7], batch=3)).all()  # type: ignore[arg-type]
    assert sample_seeds(np.int64(3), 2) == [3, 4]


@given(seed=SEEDS, size=st.integers(0, 33), longer=st.integers(0, 33), index=DRAWS)
def test_shorter_draw_is_the_start_of_a_longer_one(seed: int, size: int, longer: int, index: int | None) -> None:
    """Odd sizes too, although the values come in pairs."""
    assert (gaussian(seed, [size], index=index)[0] == gaussian(seed, [size + longer], index=index)[0, :size]).all()


@given(
    seeds=st.lists(SEEDS, min_size=2, max_size=2, unique=True),
    draws=st.lists(DRAWS, min_size=2, max_size=2, unique=True),
)
@settings(max_examples=50)
def test_streams_and_draws_share_no_words(seeds: list[int], draws: list[int | None]) -> None:
    words = [raw_bits(seed, 64, draw) for seed in seeds for draw in draws]
    assert len(np.unique(np.concatenate(words))) == 4 * 64


def test_starting_noise_is_not_the_noise_of_step_0() -> None:
    assert not np.isclose(gaussian(0, [64]), gaussian(0, [64], index=0)).any()


def test_late_draw_needs_no_earlier_ones() -> None:
    assert np.isfinite(gaussian(0, [8], index=10**18)).all()


def test_moments() -> None:
    x = gaussian(11, [1000], batch=1000).astype(np.float64)
    n = x.size
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_distribution_is_normal() -> None:
    """Kolmogorov–Smirnov against Φ; 1.95 is the one in a thousand bound of the statistic times √n."""
    from math import erf

    x = np.sort(gaussian(5, [20_000])[0].astype(np.float64))
    phi = np.array([0.5 * (1 + erf(v / 2**0.5)) for v in x])
    steps = np.arange(1, len(x) + 1) / len(x)
    assert max(np.abs(steps - phi).max(), np.abs(steps - 1 / len(x) - phi).max()) * len(x) ** 0.5 < 1.95


def test_neighbours_are_uncorrelated() -> None:
    """Seeds that follow each other, draws that follow each other, and the two values of one pair."""
    n = 50_000
    bound = 4.5 / n**0.5
    rows = np.stack([*gaussian(100, [n], batch=4), *(gaussian(100, [n], index=i)[0] for i in range(4))]).astype(
        np.float64
    )
    off_diagonal = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(off_diagonal).max() < bound
    assert abs(np.corrcoef(rows[0, 0::2], rows[0, 1::2])[0, 1]) < bound * 2**0.5
    assert abs(np.corrcoef(rows[0, :-1], rows[0, 1:])[0, 1]) < bound
    assert abs(np.corrcoef(rows[0, 0::2] ** 2, rows[0, 1::2] ** 2)[0, 1]) < bound * 2**0.5


@pytest.mark.parametrize(
    ("seed", "batch", "message"),
    [
        (-1, 1, r"from 0 to 2\*\*64 - 1, not -1"),
        (2**64, 1, "not 18446744073709551616"),
        (2**64 - 1, 2, "not 18446744073709551616"),
        ([3, -2], 1, "not -2"),
        ([1, 2], 3, "2 seeds cannot fill a batch of 3"),
        ([1], 2, "1 seeds cannot fill a batch of 2"),
        ([], 1, "0 seeds"),
        (0, 0, "batch must be at least 1"),
    ],
)
def test_impossible_seeds_are_refused(seed: int | list[int], batch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian(seed, [2], batch)


@pytest.mark.parametrize("index", [-1, 2**64 - 1])
def test_impossible_draws_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"index of a draw .* not {index}"):
        gaussian(0, [2], index=index)


@pytest.mark.parametrize("seed", [1.5, "7", None])
def test_seed_of_a_wrong_type_is_refused(seed: object) -> None:
    with pytest.raises(TypeError):
        gaussian(seed, [2])  # type: ignore[arg-type]

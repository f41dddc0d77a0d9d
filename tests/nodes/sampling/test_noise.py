"""noise.gaussian: one stream for each sample, fresh draws by index, and torch's generator for parity."""

from __future__ import annotations

import pytest
import torch

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.sampling.noise import gaussian, seed_of_iteration

SHAPE = [4, 6, 6]


def test_sample_i_of_seed_s_is_the_single_sample_of_seed_s_plus_i() -> None:
    batch = gaussian(seed=3, shape=SHAPE, batch=8)
    assert batch.shape == (8, 4, 6, 6)
    for i in range(8):
        assert torch.equal(batch[i : i + 1], gaussian(seed=3 + i, shape=SHAPE))
    assert torch.equal(gaussian(seed=[5, 3], shape=SHAPE), torch.cat([batch[2:3], batch[0:1]]))


def test_draws_of_a_loop_differ_from_the_start_and_from_each_other() -> None:
    draws = [gaussian(index=index, seed=7, shape=SHAPE) for index in (None, 0, 1, 2)]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(float((a * b).mean())) < 0.35
            assert not torch.equal(a, b)


def test_batches_of_a_loop_have_the_noise_of_one_large_batch() -> None:
    parts = [gaussian(index=4, seed=seed_of_iteration(i, seed=7, stride=3), shape=SHAPE, batch=3) for i in range(2)]
    assert torch.equal(torch.cat(parts), gaussian(index=4, seed=7, shape=SHAPE, batch=6))
    with pytest.raises(ValueError, match="found -1"):
        seed_of_iteration(-1)


@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_noise_is_standard_normal(rng: str) -> None:
    noise = gaussian(seed=0, shape=[2, 100, 100], rng=rng)  # type: ignore[arg-type]
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_a_shape_that_is_not_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[C, H, W\], such as \[4, 16, 16\]; found \[16, 16\]"):
        gaussian(shape=[16, 16])
    with pytest.raises(ValueError, match=r"'like' has the shape of samples, \(B, C, H, W\); found \(2, 16\)"):
        gaussian(torch.zeros(2, 16))


def test_a_single_sample_as_like_leaves_the_batch_to_the_setting() -> None:
    like = torch.zeros(1, 4, 6, 6)
    assert torch.equal(gaussian(like, batch=3, seed=5), gaussian(shape=[4, 6, 6], batch=3, seed=5))
    assert gaussian(like).shape == (1, 4, 6, 6)


def test_like_gives_shape_batch_and_dtype() -> None:
    like = torch.zeros(3, 4, 6, 6, dtype=torch.float64)
    noise = gaussian(like, seed=3)
    assert noise.dtype == torch.float64
    torch.testing.assert_close(noise, gaussian(seed=3, shape=SHAPE, batch=3).double(), atol=0, rtol=0)


@pytest.mark.parametrize(("policy", "dtype"), [("bfloat16", "float32"), ("float64", "float64"), ("float32", "float32")])
def test_samplers_start_in_float32_at_least(policy: str, dtype: str) -> None:
    with use_device("cpu", policy):
        assert gaussian(seed=0, shape=SHAPE).dtype == getattr(torch, dtype)
    like = torch.zeros(1, *SHAPE, dtype=getattr(torch, policy))
    assert torch.equal(gaussian(like, seed=0), gaussian(seed=0, shape=SHAPE).to(getattr(torch, dtype)))


def test_torchs_generator_draws_as_other_tools_do() -> None:
    generator = torch.Generator().manual_seed(9)
    sequence = [torch.randn(2, *SHAPE, generator=generator) for _ in range(3)]
    for index, expected in zip((None, 0, 1), sequence, strict=True):
        assert torch.equal(gaussian(index=index, seed=9, shape=SHAPE, batch=2, rng="torch"), expected)
    each = gaussian(seed=[9, 10], shape=SHAPE, rng="torch")
    assert torch.equal(each[1], torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(10))[0])


def test_noise_without_a_shape_raises_with_advice() -> None:
    with pytest.raises(ValueError, match="wire 'like', or set 'shape'"):
        gaussian(seed=0)


def test_a_list_of_seeds_of_another_length_than_the_batch_raises() -> None:
    with pytest.raises(ValueError, match="2 seeds cannot fill a batch of 3"):
        gaussian(seed=[1, 2], shape=SHAPE, batch=3)

"""Metrics compared with closed forms and plain loops, and invariances."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.nodes.tensor import merge, shuffle, slice_axis
from guidegraph_lab.metrics import metrics
from guidegraph_lab.metrics.features import extract_features
from guidegraph_lab.metrics.kid import kernel_distance
from tests.nodes.sampling.closed_form import normal


def one_hot(classes: Tensor, k: int) -> Tensor:
    """(B, H, W) to (B, K, H, W)."""
    return torch.nn.functional.one_hot(classes, k).movedim(-1, 1).float()


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval_is_that_of_the_literature(hits: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3."""
    proportion = metrics.wilson(hits, count)
    assert proportion == pytest.approx((hits / count, low, high), abs=5e-5)


def test_the_interval_of_no_or_only_successes_ends_at_0_or_1() -> None:
    for count in range(1, 200):
        assert metrics.wilson(0, count)[1] == 0
        assert metrics.wilson(count, count)[2] == 1


@pytest.mark.parametrize("p", [0.02, 0.5, 0.97])
def test_wilsons_interval_contains_the_proportion_in_95_of_100_draws(p: float) -> None:
    draws = np.random.default_rng(0).binomial(400, p, 2000)
    held = [low <= p <= high for _, low, high in (metrics.wilson(int(hits), 400) for hits in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_accuracy_counts_correct_labels() -> None:
    logits = torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 0, 5], [1, 0, 0]])
    label = torch.tensor([0, 1, 2, 2])
    assert metrics.accuracy(logits, label).value == 0.75
    assert metrics.accuracy(logits, torch.tensor([2, 0, 1, 0])).value == 0.25


def test_class_accuracy_adds_up_to_accuracy() -> None:
    logits, label = normal(60, 5), torch.arange(60) % 4
    table = metrics.class_accuracy(logits, label, names=["a", "b", "c", "d", "e"])
    assert table["class"] == ("a", "b", "c", "d")
    counts, shares = table.numbers("count"), table.numbers("accuracy")
    right = sum(n * p for n, p in zip(counts, shares, strict=True))
    assert right == pytest.approx(60 * metrics.accuracy(logits, label).value)
    assert all(low <= p <= high for low, p, high in zip(table["low"], shares, table["high"], strict=True))  # type: ignore[operator]


def test_a_mean_has_the_standard_error_of_its_values() -> None:
    mean = metrics.mean(torch.tensor([1.0, 2.0, 6.0]))
    assert mean.value == 3
    assert mean.error == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert math.isnan(metrics.mean(torch.ones(1)).error)


def test_a_gain_is_paired() -> None:
    hard = 10 * normal(50)
    gain = metrics.gain(hard + 1 + 0.1 * normal(50, seed=1), hard)
    assert gain.value == pytest.approx(1, abs=5 * gain.error)
    assert gain.error < 0.03
    with pytest.raises(ValueError, match="other samples"):
        metrics.gain(hard, hard[:10])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16])
def test_a_gain_of_any_dtype_is_the_difference_of_its_numbers(dtype: torch.dtype) -> None:
    gain = metrics.gain(torch.tensor([0, 1, 0]).to(dtype), torch.tensor([1, 1, 1]).to(dtype))
    assert gain.values.tolist() == [-1, 0, -1]


def test_psnr_of_a_constant_difference_is_closed() -> None:
    image = torch.zeros(2, 3, 4, 4)
    image[0] += 0.2
    image[1] -= 0.02
    psnr = metrics.psnr(image, torch.zeros_like(image))
    assert psnr.values.tolist() == pytest.approx([20.0, 40.0], abs=1e-5)
    assert psnr.value == pytest.approx(30.0, abs=1e-5)
    assert metrics.psnr(image, image).value == pytest.approx(100.0)


def test_psnr_equals_that_of_8_bit_pictures() -> None:
    """10 log₁₀(255² / MSE) of the same pictures as bytes."""
    a, b = (torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    bytes_a, bytes_b = ((x.numpy() + 1) * 127.5 for x in (a, b))
    usual = [10 * math.log10(255**2 / np.mean((p - q) ** 2)) for p, q in zip(bytes_a, bytes_b, strict=True)]
    assert metrics.psnr(a, b).values.tolist() == pytest.approx(usual, abs=1e-4)


def test_a_mask_selects_the_compared_pixels() -> None:
    image, reference = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    image[..., 0, 0], image[..., 3, 3] = 2.0, 0.02
    corner = torch.zeros(1, 1, 4, 4)
    corner[..., 3, 3] = 1
    assert metrics.psnr(image, reference, corner).value == pytest.approx(40.0, abs=1e-5)
    assert metrics.largest_change(image, reference, corner) == pytest.approx(2.55)
    assert metrics.largest_change(image, reference, corner, outside=True) == pytest.approx(255)
    assert metrics.largest_change(image, reference) == pytest.approx(255)
    with pytest.raises(ValueError, match="mask of a picture is empty"):
        metrics.psnr(image, reference, 0 * corner)
    for mask, outside in ((0 * corner, False), (0 * corner + 1, True)):
        with pytest.raises(ValueError, match="nowhere: there is nothing to compare"):
            metrics.largest_change(image, reference, mask, outside=outside)
    with pytest.raises(ValueError, match="not known without a mask"):
        metrics.largest_change(image, reference, outside=True)
    with pytest.raises(ValueError, match=r"the mask has shape \(1, 3, 4, 4\) .*: give a mask of their size, \(1, 1"):
        metrics.psnr(image, reference, corner.expand(-1, 3, -1, -1))


def test_pixels_outside_of_the_mask_may_be_nan() -> None:
    image, reference, mask = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 2, 2)
    image[..., 0, 0], image[..., 1, 1], mask[..., 0, 0] = math.nan, 0.02, 0
    assert metrics.largest_change(image, reference, mask) == pytest.approx(2.55)
    assert metrics.largest_change(image, reference, 1 - mask, outside=True) == pytest.approx(2.55)
    assert math.isnan(metrics.largest_change(image, reference))
    mse = 0.02**2 / 3
    assert metrics.psnr(image, reference, mask).value == pytest.approx(10 * math.log10(4 / mse), abs=1e-5)
    assert math.isnan(metrics.psnr(image, reference).value)
    semantic = one_hot(torch.tensor([[[0, 1], [1, 0]]]), 2)
    logits = semantic.clone()
    logits[..., 0, 0] = math.nan
    assert metrics.mean_iou(logits, semantic, mask).value == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_no_prediction(value: float) -> None:
    logits, label, maps = torch.zeros(2, 3), torch.tensor([0, 0]), torch.zeros(1, 3, 2, 2)
    logits[1, 0], maps[0, 0, 1, 1] = value, value
    for call in (
        lambda: metrics.accuracy(logits, label),
        lambda: metrics.class_accuracy(logits, label),
        lambda: metrics.mean_iou(maps, torch.zeros(1, 3, 2, 2)),
        lambda: metrics.mean_iou(torch.zeros(1, 3, 2, 2), maps),
    ):
        with pytest.raises(ValueError, match="have values that are not finite: look at the samples"):
            call()


def test_miou_is_that_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (6, 5, 5), generator=generator)
    guess = torch.where(torch.rand(6, 5, 5, generator=generator) < 0.6, truth, torch.randint(0, 5, (6, 5, 5)))
    ious = []
    for k in range(4):
        intersection = sum(bool(a == k and b == k) for a, b in zip(truth.flatten(), guess.flatten(), strict=True))
        union = sum(bool(a == k or b == k) for a, b in zip(truth.flatten(), guess.flatten(), strict=True))
        ious.append(intersection / union)
    result = metrics.mean_iou(one_hot(guess, 5), one_hot(truth, 5))
    assert result.value == pytest.approx(np.mean(ious))
    assert result.classes[:4].tolist() == pytest.approx(ious)
    assert math.isnan(result.classes[4])  # it does not occur in the map
    assert result.low < result.value < result.high


def test_miou_of_a_map_with_itself_is_1_and_of_logits_that_of_the_largest() -> None:
    truth = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    assert metrics.mean_iou(one_hot(truth, 3), one_hot(truth, 3))[:3] == (1.0, 1.0, 1.0)
    logits = 7 * one_hot(truth, 3) - 3 + 0.1 * normal(2, 3, 6, 6).float()
    assert metrics.mean_iou(logits, one_hot(truth, 3)).value == 1


def test_miou_in_a_mask_is_that_of_the_masked_pixels() -> None:
    truth, guess = torch.randint(0, 3, (2, 2, 4, 8), generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(2, 1, 4, 8)
    mask[..., :4] = 1
    masked = metrics.mean_iou(one_hot(guess, 3), one_hot(truth, 3), mask)
    cropped = metrics.mean_iou(one_hot(guess[..., :4], 3), one_hot(truth[..., :4], 3))
    assert masked.value == pytest.approx(cropped.value)


def test_the_interval_of_miou_does_not_depend_on_pictures_of_which_no_pixel_counts() -> None:
    truth, guess = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(4, 1, 1, 1).expand(-1, -1, 4, 4)
    masked = metrics.mean_iou(one_hot(guess, 3), one_hot(truth, 3), mask)
    alone = metrics.mean_iou(one_hot(guess[::2], 3), one_hot(truth[::2], 3))
    assert masked[:3] == alone[:3]
    assert masked.low <= masked.value <= masked.high


def kid_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. 4 of Bińkowski et al. 2018, one pair at a time."""
    d = x.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / d + 1) ** 3)

    within = [np.mean([kernel(a, b) for a, b in permutations(s, 2)]) for s in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


@pytest.mark.parametrize("blocks", [2, 5, 100])
def test_kid_is_that_of_plain_loops(blocks: int) -> None:
    x, y = normal(13, 6), 0.5 + normal(9, 6, seed=1)
    kid = kernel_distance(x, y, blocks=blocks)
    assert kid.value == pytest.approx(1000 * kid_by_loops(x.numpy(), y.numpy()), rel=1e-10)


@pytest.mark.parametrize("blocks", [3, 100])
def test_kid_does_not_depend_on_the_rows_in_memory(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(23, 6), 0.5 + normal(31, 6, seed=1)
    expected = kernel_distance(x, y, blocks=blocks)
    monkeypatch.setattr("guidegraph_lab.metrics.kid.KERNEL_ROWS", 7)
    assert kernel_distance(x, y, blocks=blocks) == pytest.approx(expected)


@pytest.mark.parametrize("blocks", [2, 3, 20])
def test_kid_of_three_samples_has_an_error(blocks: int) -> None:
    kid = kernel_distance(normal(3, 6), normal(3, 6, seed=1), blocks=blocks)
    assert 0 < kid.error < math.inf


def test_kid_does_not_depend_on_the_order_of_the_samples() -> None:
    x, y = normal(30, 4), normal(40, 4, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert kernel_distance(x[order], y).value == pytest.approx(kernel_distance(x, y).value, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kid_is_unbiased_and_its_error_is_the_deviation_over_draws(shift: float) -> None:
    """Of one distribution the estimate is 0 on average, and the jackknife's error too large rather than too small."""
    distances = [kernel_distance(normal(60, 8, seed=i), shift + normal(90, 8, seed=-i)) for i in range(1, 201)]
    values, errors = (np.array(column) for column in zip(*distances, strict=True))
    if shift:
        assert errors.mean() == pytest.approx(values.std(), rel=0.2)
    else:
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
        assert values.std() < errors.mean() < 2 * values.std()


def test_kid_of_two_gaussians_is_closed() -> None:
    """E (xᵀy/d + 1)³ for d = 1: means 0 and m, unit variances."""
    m = 0.8
    within = 1 + 3 * 1  # E(xy+1)³ = 1 + 3 E x²y² for zero means
    shifted = 1 + 3 * m**2 + 3 * (1 + m**2) ** 2 + (m**3 + 3 * m) ** 2
    across = 1 + 3 * (1 + m**2)
    kid = kernel_distance(normal(1500, 1), m + normal(1500, 1, seed=1))
    assert kid.value / 1000 == pytest.approx(within + shifted - 2 * across, abs=4 * kid.error / 1000)


def test_features_are_pooled_in_chunks() -> None:
    sizes = []

    def extractor(image: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(image))
        return image, image.mean((2, 3))

    image = normal(10, 3, 4, 4).float()
    torch.testing.assert_close(extract_features(extractor, image, chunk=4), image.mean((2, 3)))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_shuffling_moves_every_sample_and_loses_none(batch: int) -> None:
    shuffled = shuffle(torch.arange(batch))
    assert not bool((shuffled == torch.arange(batch)).any())
    assert sorted(shuffled.tolist()) == list(range(batch))
    assert torch.equal(shuffled, shuffle(torch.arange(batch)))
    assert batch < 10 or not torch.equal(shuffled, shuffle(torch.arange(batch), seed=1))


def test_a_batch_of_one_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="takes two samples"):
        shuffle(torch.zeros(1, 3))


def test_slices_and_merged_loops() -> None:
    stacked = torch.arange(24).reshape(2, 3, 4)
    assert merge(stacked).shape == (6, 4)
    assert slice_axis(merge(stacked), start=4)[:, 0].tolist() == [16, 20]
    with pytest.raises(ValueError, match="none of the 2 entries of axis 0"):
        slice_axis(stacked, start=5)
    with pytest.raises(ValueError, match="at least two axes"):
        merge(torch.arange(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.share(torch.zeros(0)), "share of no values"),
        (lambda: metrics.mean(torch.zeros(0)), "mean of no values"),
        (lambda: metrics.accuracy(torch.zeros(4, 3), torch.zeros(5)), r"\(4, 3\) and \(5,\)"),
        (lambda: metrics.class_accuracy(torch.zeros(4, 3), torch.zeros(4), names=["a"]), "1 names do not fit"),
        (lambda: metrics.psnr(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)), "cannot be compared"),
        (lambda: metrics.mean_iou(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2)), "cannot be compared"),
        (lambda: kernel_distance(torch.zeros(9, 3), torch.zeros(9, 4)), "expected features"),
        (lambda: kernel_distance(torch.zeros(2, 3), torch.zeros(9, 3)), "at least 3 samples of each"),
    ],
)
def test_invalid_inputs_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]

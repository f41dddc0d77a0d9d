"""FID, KID, the Inception score, precision and recall: compared with torchmetrics, scipy and closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from scipy.integrate import quad
from torch import Tensor, nn

from guidegraph.commands import main
from guidegraph_lab.metrics import fidelity, frechet, metrics
from guidegraph_lab.metrics.kid import kernel_distance, kernel_distance_of_subsets
from tests.nodes.sampling.closed_form import normal


def two_sets(n: int = 300, m: int = 400, d: int = 24) -> tuple[Tensor, Tensor]:
    """Features like those behind a ReLU, correlated, of two distributions."""
    mix = normal(d, d, seed=7) / math.sqrt(d)
    return (normal(n, d) @ mix).relu(), (1.3 * normal(m, d, seed=1) @ mix + 0.2).relu()


class Same(nn.Module):
    """A network whose features are its input, for metrics that need a network."""

    num_features = 24

    def forward(self, x: Tensor) -> Tensor:
        return x


def by_torchmetrics(metric: Any, features: Tensor, reference: Tensor) -> Any:
    metric = metric.set_dtype(torch.float64)
    for part in reference.split(100):
        metric.update(part, real=True)
    for part in features.split(100):
        metric.update(part, real=False)
    return metric.compute()


def test_fid_is_that_of_torchmetrics_and_of_scipys_square_root() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = two_sets()
    fid = frechet.frechet_distance(x, y, resamples=0)
    assert fid.value == pytest.approx(float(by_torchmetrics(FrechetInceptionDistance(Same()), x, y)), rel=1e-4)
    a, b = x.numpy(), y.numpy()
    s, r = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.trace(scipy.linalg.sqrtm(s @ r)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(r) - 2 * root
    assert fid.value == pytest.approx(expected, rel=1e-8)
    assert math.isnan(fid.low)
    assert math.isnan(fid.high)


def test_fid_of_a_shifted_set_is_the_squared_distance() -> None:
    x = normal(50, 80)  # fewer samples than features
    assert frechet.frechet_distance(x, x, resamples=0).value == pytest.approx(0, abs=1e-9)
    assert frechet.frechet_distance(x, x + 0.5, resamples=0).value == pytest.approx(80 * 0.25, rel=1e-9)


def test_fid_of_two_gaussians_is_closed() -> None:
    """|m|² + Σ (s − r)² for independent features, within four deviations."""
    x, y = normal(4000, 3) * torch.tensor([1.0, 2.0, 0.5]), 1 + normal(4000, 3, seed=1)
    fid = frechet.frechet_distance(x, y, resamples=30)
    assert fid.value == pytest.approx(3 + 0 + 1 + 0.25, abs=4 * (fid.high - fid.value) / metrics.Z95)
    assert fid.high - fid.low < 0.5
    assert fid == frechet.frechet_distance(x, y, resamples=30)
    assert fid.low != frechet.frechet_distance(x, y, resamples=30, seed=5).low


def test_the_interval_of_fid_is_as_wide_as_the_deviation_over_draws() -> None:
    intervals = [
        frechet.frechet_distance(normal(200, 4, seed=i), 0.5 + normal(200, 4, seed=-i), resamples=20)
        for i in range(1, 41)
    ]
    widths = [(f.high - f.value) / metrics.Z95 for f in intervals]
    assert np.mean(widths) == pytest.approx(np.std([f.value for f in intervals]), rel=0.3)


def test_moments_of_batches_are_those_of_all_and_give_the_same_fid() -> None:
    x, y = two_sets()
    moments = [frechet.empty(), frechet.empty()]
    for i, f in enumerate((x, y)):
        for batch in f.split(64):  # the last one is smaller
            moments[i] = frechet.add(moments[i], batch)
    assert float(moments[0].count) == len(x)
    torch.testing.assert_close(moments[0].mean, x.mean(0))
    torch.testing.assert_close(moments[0].scatter / (len(x) - 1), x.T.cov())
    streamed = frechet.frechet_distance_of_moments(*moments)
    assert streamed == pytest.approx(frechet.frechet_distance(x, y, resamples=0).value, rel=1e-8)
    few = [frechet.add(frechet.empty(), f[:10]) for f in (x, y)]  # covariances without full rank
    expected = frechet.frechet_distance(x[:10], y[:10], resamples=0).value
    assert frechet.frechet_distance_of_moments(*few) == pytest.approx(expected, rel=1e-6)


def test_moments_written_by_a_run_are_loaded_and_extended(tmp_path: Path) -> None:
    x, _ = two_sets()
    (tmp_path / "flow.yaml").write_text(
        "guidegraph: 1\nnodes:\n  start: {use: moments.empty}\n"
        "  x: {use: tensor.load, with: {path: x.npy}}\n"
        "  seen: {use: moments.add, in: {moments: start, features: x}}\noutputs: {seen: seen}\n"
    )
    np.save(tmp_path / "x.npy", x[:200].numpy())
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="0"):
        main(["run", str(tmp_path / "flow.yaml"), "--out", str(out)])
    again = frechet.load(path=out / "seen.safetensors")
    every = frechet.add(again, x[200:])
    assert float(every.count) == len(x)
    torch.testing.assert_close(every.scatter / (len(x) - 1), x.T.cov())
    save_file({"other": torch.zeros(3)}, out / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors' holds no moments"):
        frechet.load(path=out / "other.safetensors")


def test_adding_no_features_does_not_change_moments() -> None:
    x, _ = two_sets()
    moments = frechet.add(frechet.empty(), x)
    assert frechet.add(moments, x[:0]) is moments
    assert float(frechet.add(frechet.empty(), x[:0]).count) == 0


def test_published_statistics_are_read(tmp_path: Path) -> None:
    x, y = two_sets()
    np.savez(tmp_path / "stats.npz", mu=y.mean(0).numpy(), sigma=y.T.cov().numpy())
    fid = frechet.frechet_distance_of_moments(
        frechet.add(frechet.empty(), x), frechet.load(path=tmp_path / "stats.npz")
    )
    assert fid == pytest.approx(frechet.frechet_distance(x, y, resamples=0).value, rel=1e-8)
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    np.savez(tmp_path / "uneven.npz", mu=np.zeros(3), sigma=np.eye(3) + np.triu(np.ones((3, 3)), 1))
    for name, message in (
        ("other", "arrays 'mu' and 'sigma'"),
        ("odd", r"expected mu \(D\)"),
        ("none", "none.npz"),
        ("nan", r"nan.npz' has values that are not finite"),
        ("uneven", "a covariance is symmetric"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet.load(path=tmp_path / f"{name}.npz")


@pytest.mark.parametrize(("subsets", "size"), [(1, 300), (5, 50)])
def test_kid_is_that_of_torchmetrics(subsets: int, size: int) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = two_sets(300, 300)
    torch.manual_seed(3)
    mean, deviation = by_torchmetrics(KernelInceptionDistance(Same(), subsets=subsets, subset_size=size), x, y)
    kid = kernel_distance_of_subsets(x, y, subsets=subsets, subset_size=size, seed=3)
    assert kid.value == pytest.approx(1000 * float(mean), rel=1e-4)
    assert kid.error == pytest.approx(1000 * float(deviation), rel=1e-4, abs=1e-9)
    if subsets == 1:  # of all samples: the estimate of metric.kid
        assert kernel_distance(x, y).value == pytest.approx(1000 * float(mean), rel=1e-4)


@pytest.mark.parametrize("splits", [1, 4])
def test_the_inception_score_is_that_of_torchmetrics(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = 3 * normal(120, 24)
    monkeypatch.setattr(torch, "randperm", torch.arange)  # it shuffles before it splits
    metric = InceptionScore(Same(), splits=splits).set_dtype(torch.float64)
    metric.update(logits)
    expected, _ = metric.compute()
    score = fidelity.inception_score(logits, splits=splits)
    assert score.value == pytest.approx(float(expected), rel=1e-4)
    assert score.low < score.value < score.high
    assert score == fidelity.inception_score(logits, splits=splits)


def test_the_inception_score_of_certain_uniform_predictions_is_the_number_of_classes() -> None:
    sure = 100 * torch.eye(5, 8).repeat(20, 1)
    assert fidelity.inception_score(sure).value == pytest.approx(5)
    assert fidelity.inception_score(sure[:1].repeat(50, 1)).value == pytest.approx(1)
    assert fidelity.inception_score(torch.zeros(50, 8)) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(("n", "k", "sharp"), [(200, 10, 3), (50, 100, 4)])
def test_the_interval_of_the_inception_score_is_as_wide_as_the_deviation_over_draws(n: int, k: int, sharp: int) -> None:
    """With fewer samples than classes too, where resampling with replacement gives 0.7 of it."""
    scores = [fidelity.inception_score(sharp * normal(n, k, seed=i)) for i in range(1, 41)]
    widths = [(f.high - f.low) / (2 * metrics.Z95) for f in scores]
    assert np.mean(widths) == pytest.approx(np.std([f.value for f in scores]), rel=0.25)


def test_the_jackknife_of_the_inception_score_is_that_of_plain_loops() -> None:
    logits = 2 * normal(12, 5)
    values = np.array([fidelity.inception_score(logits[torch.arange(12) != i]).value for i in range(12)])
    half = metrics.Z95 * math.sqrt(11 / 12 * ((values - values.mean()) ** 2).sum())
    score = fidelity.inception_score(logits)
    assert (score.low, score.high) == pytest.approx((max(1, score.value - half), score.value + half))
    of_one_sample = fidelity.inception_score(logits[:1])
    assert of_one_sample.value == pytest.approx(1)
    assert math.isnan(of_one_sample.low)
    assert math.isnan(of_one_sample.high)


def test_the_inception_score_averages_over_splits_as_in_the_papers() -> None:
    logits = 2 * normal(11, 5)
    parts = [logits[:2], logits[2:5], logits[5:8], logits[8:]]
    expected = np.mean([fidelity.inception_score(part).value for part in parts])
    assert fidelity.inception_score(logits, splits=4).value == pytest.approx(expected)
    assert fidelity.inception_score(logits, splits=8).value == pytest.approx(
        np.mean([fidelity.inception_score(logits[i * 11 // 8 : (i + 1) * 11 // 8]).value for i in range(8)])
    )


def test_the_inception_score_of_probabilities_is_that_of_their_logits() -> None:
    logits = 3 * normal(40, 6)
    probabilities = logits.softmax(1)
    expected = fidelity.inception_score(logits)
    assert fidelity.inception_score(probabilities, given="probabilities") == pytest.approx(expected)
    half = fidelity.inception_score(probabilities.half(), given="probabilities")
    assert half.value == pytest.approx(expected.value, rel=1e-3)
    sure = torch.eye(5).repeat(4, 1)
    assert fidelity.inception_score(sure, given="probabilities").value == pytest.approx(5)
    with pytest.raises(ValueError, match="sum to 1: set `given` to probabilities"):
        fidelity.inception_score(probabilities)
    with pytest.raises(ValueError, match="set `given` to logits"):
        fidelity.inception_score(logits, given="probabilities")


def four(x: Tensor, y: Tensor, k: int, chunk: int = 1024) -> fidelity.Fidelity:
    result = fidelity.precision_recall(x, y, k=k, resamples=0, chunk=chunk)
    return fidelity.Fidelity(result.precision, result.recall, result.density, result.coverage)


def test_precision_and_recall_of_a_set_by_hand() -> None:
    """Real 0, 1, 3, 7: with k = 1 the radii are 1, 1, 2, 4. Generated 0.5, 4, 12: the radii are 3.5, 3.5, 8."""
    real, generated = (torch.tensor(v, dtype=torch.float64)[:, None] for v in ([0.0, 1, 3, 7], [0.5, 4, 12]))
    metrics_of_set = four(generated, real, k=1)
    assert metrics_of_set.precision == pytest.approx(2 / 3)  # 12 is outside
    assert metrics_of_set.recall == pytest.approx(1)  # 0, 1, 3 by 0.5 and 7 by 4
    assert metrics_of_set.density == pytest.approx((2 + 2) / 3)  # 0.5: the balls of 0 and 1; 4: those of 3 and 7
    assert metrics_of_set.coverage == pytest.approx(1)
    assert four(generated, real, k=1, chunk=2) == pytest.approx(metrics_of_set)


def by_loops(x: Tensor, y: Tensor, k: int) -> tuple[float, ...]:
    """The definitions, one distance at a time."""

    def reach(s: Tensor, i: int) -> float:
        return sorted(float((s[i] - s[j]).norm()) for j in range(len(s)) if j != i)[k - 1]

    rx, ry = [reach(x, i) for i in range(len(x))], [reach(y, j) for j in range(len(y))]
    inside = [[float((a - b).norm()) <= ry[j] for j, b in enumerate(y)] for a in x]
    recalled = [any(float((a - b).norm()) <= rx[i] for i, a in enumerate(x)) for b in y]
    covered = [any(column) for column in zip(*inside, strict=True)]
    shares = [np.mean([any(row) for row in inside]), np.mean(recalled), np.sum(inside) / (k * len(x)), np.mean(covered)]
    return tuple(float(s) for s in shares)


@pytest.mark.parametrize("k", [1, 3])
def test_the_four_are_those_of_plain_loops(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(31, 3), 0.8 * normal(40, 3, seed=1) + 0.5
    kept = fidelity.precision_recall(x, y, k=k, chunk=7)
    assert four(x, y, k) == pytest.approx(by_loops(x, y, k))
    monkeypatch.setattr(fidelity, "MAX_KEPT", 0)  # distances are made anew for each half
    assert fidelity.precision_recall(x, y, k=k, chunk=7) == pytest.approx(kept)


def test_equal_sets_score_1_and_distant_sets_0() -> None:
    x = normal(60, 5)
    assert four(x, x, k=3) == pytest.approx((1, 1, 1 + 1 / 3, 1))  # density counts each sample itself too
    assert four(x, x + 100, k=3) == (0, 0, 0, 0)
    repeated = torch.zeros(10, 5, dtype=torch.float64) + 3.7
    assert four(repeated, repeated, k=3).precision == 1  # balls of radius 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_precision_and_recall_of_one_gaussian_are_closed(k: int) -> None:
    """1 − 4^−k on a line, for two draws of one distribution, whatever its density.

    We lie outside of all balls where, on either side, the k samples after the next one are nearer to it than we are.
    Samples are locally a Poisson process: k spacings sum to less than another one with probability 2^−k, and both sides
    are independent.
    """
    means = np.mean([four(normal(1000, 1, seed=i), normal(1000, 1, seed=100 + i), k) for i in range(1, 7)], axis=0)
    assert means[:2].tolist() == pytest.approx([1 - 0.25**k] * 2, abs=0.025)


@pytest.mark.parametrize(("n", "m", "k"), [(100, 100, 3), (60, 150, 5)])
def test_density_and_coverage_of_one_distribution_are_closed_in_any_dimension(n: int, m: int, k: int) -> None:
    """Naeem et al. 2020, section 3.2: 1, and 1 − Π (m − i)/(n + m − i) over i = 1 … k."""
    means = np.mean([four(normal(n, 6, seed=i), normal(m, 6, seed=-i), k) for i in range(1, 41)], axis=0)
    expected = 1 - math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    assert means[2] == pytest.approx(1, abs=0.05)
    assert means[3] == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_coverage_of_two_gaussians_is_closed(shift: float) -> None:
    """1 − E (p / (p + q))^k over real samples: none of the k nearest of both sets is a generated one."""
    k, n = 2, 1000

    def integrand(x: float) -> float:
        p, q = (math.exp(-((x - c) ** 2) / 2) / math.sqrt(2 * math.pi) for c in (0.0, shift))
        return p * (p / (p + q)) ** k

    expected = 1 - quad(integrand, -10, 10)[0]
    coverage = np.mean([four(shift + normal(n, 1, seed=i), normal(n, 1, seed=-i), k).coverage for i in range(1, 4)])
    assert coverage == pytest.approx(expected, abs=0.02)


def test_invented_and_dropped_modes_reduce_precision_and_recall() -> None:
    """Gaussians at −50, 0 and 50. Real: 0.8 at −50, 0.2 at 0; generated: 0.7 at 0, 0.3 at 50; only 0 is common."""
    k, n = 3, 1000
    real, generated = normal(n, 1), normal(n, 1, seed=1)
    real[: int(0.8 * n)] -= 50
    generated[: int(0.3 * n)] += 50
    result = fidelity.precision_recall(generated, real, k=k, resamples=20)
    assert result.precision == pytest.approx(0.7 * (1 - 0.25**k), abs=0.04)
    assert result.recall == pytest.approx(0.2 * (1 - 0.25**k), abs=0.04)
    assert result.precision_low < result.precision < result.precision_high


def test_the_intervals_of_the_four_are_as_wide_as_the_deviation_over_draws() -> None:
    results = np.array(
        [
            fidelity.precision_recall(normal(200, 2, seed=i), 0.7 + normal(200, 2, seed=-i), resamples=12)
            for i in range(1, 41)
        ]
    )
    widths = (results[:, 2::3] - results[:, 1::3]).mean(0) / (2 * metrics.Z95)
    assert (widths / results[:, 0::3].std(0)).tolist() == pytest.approx([1.1] * 4, abs=0.4)


def moments(mean: float) -> frechet.Moments:
    """The moments of four features with this mean."""
    count, means, scatter = torch.tensor(4.0), torch.full((3,), mean), torch.eye(3)
    return frechet.Moments(count.double(), means.double(), scatter.double())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet.frechet_distance(torch.zeros(9, 3), torch.zeros(9, 4)), "expected features"),
        (lambda: frechet.frechet_distance(torch.zeros(1, 3), torch.zeros(9, 3)), "at least 2 samples"),
        (lambda: frechet.frechet_distance(torch.zeros(9, 3) / 0, torch.zeros(9, 3)), "'features' has values"),
        (lambda: frechet.frechet_distance_of_moments(frechet.empty(), frechet.empty()), "'moments' is of 0 features"),
        (lambda: frechet.add(frechet.add(frechet.empty(), torch.zeros(4, 3)), torch.zeros(4, 2)), "D = 3 as before"),
        (lambda: frechet.add(frechet.empty(), torch.zeros(4, 3) / 0), "not finite"),
        (lambda: frechet.frechet_distance_of_moments(moments(math.nan), moments(0.0)), "'moments' has values"),
        (lambda: frechet.frechet_distance_of_moments(moments(0.0), moments(math.inf)), "'reference' has values"),
        (lambda: kernel_distance(torch.zeros(9, 3) / 0, torch.zeros(9, 3)), "'features' has values"),
        (lambda: kernel_distance_of_subsets(torch.zeros(9, 3), torch.zeros(9, 3)), "subsets of 1000"),
        (lambda: fidelity.inception_score(torch.zeros(3)), r"logits \(N, K\)"),
        (lambda: fidelity.inception_score(torch.full((3, 2), math.inf)), "not finite"),
        (lambda: fidelity.precision_recall(torch.zeros(3, 2), torch.zeros(9, 2)), "needs 4 samples of each set"),
        (lambda: fidelity.precision_recall(torch.zeros(7, 2), torch.zeros(9, 2)), "half of 7 samples"),
    ],
)
def test_invalid_feature_sets_raise(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

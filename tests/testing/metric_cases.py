"""The metric nodes for the conformance kit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidegraph.nodes.models.classifier import ClassifierConfig, NoisyClassifier
from guidegraph.testing import NodeCase
from guidegraph.testing.examples import draw

SETS = {"features": draw((12, 6), 1), "reference": draw((14, 6), 2)}
STATISTIC = {"dtypes": "statistics are computed in float64"}
METRIC = {**STATISTIC, "gradients": "a metric is nothing to train on"}
CODING = {**STATISTIC, "batch invariance": "its steps (R) are those of a chain, not of a batch"}
COARSE = {"steps": torch.tensor([60.0, 30.0, 0.0])}


def classifier() -> NoisyClassifier:
    torch.manual_seed(0)
    return NoisyClassifier(ClassifierConfig(channels=8)).eval().requires_grad_(False)


def numbers(*shape: int) -> Tensor:
    return draw(shape, 3).abs().double()


def metric_cases(case: Callable[..., NodeCase]) -> list[NodeCase]:
    """`case` makes one of a node's id."""

    curve = {"bits": numbers(3, 4), "squared_error": numbers(3, 4), "prior": numbers(4), **COARSE}
    return [
        case("coding.prior", skip=CODING),
        case("coding.step", inputs={**COARSE, "index": 1}, skip=CODING),
        case("features.classifier", inputs={"classifier": classifier()}),
        case("metric.fid", inputs=SETS),
        case("metric.inception_score", inputs={"logits": draw((9, 5), 1)}),
        case("metric.kid_subsets", inputs=SETS, settings={"subsets": 2, "subset_size": 6}),
        case("metric.perceptual", skip=METRIC),
        case("metric.precision_recall", inputs=SETS),
        case("metric.rate_distortion", inputs=curve, skip={"batch invariance": CODING["batch invariance"]}),
        case("metric.ssim", inputs={"image": pictures(1), "reference": pictures(2)}, skip=METRIC),
        case("metric.start_clock", inputs={"value": draw((2, 3), 1)}),
        case("moments.add", inputs={"features": draw((5, 6), 1)}, skip=METRIC),
        case("moments.empty", skip=STATISTIC),
    ]


def pictures(seed: int) -> Tensor:
    return draw((2, 3, 16, 16), seed).tanh()

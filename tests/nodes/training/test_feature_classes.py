"""Features of a denoiser that learn the classes of cells: the nodes, their gradients, and torch.compile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.guidance.hooks import HookedDenoiser, select_sites
from guidegraph.nodes.models.model_nodes import new_unet
from guidegraph.nodes.sampling.denoiser import features, predict, predict_with_features
from guidegraph.nodes.training.adversarial import feature_classes_loss, new_feature_classifier
from guidegraph.nodes.types import Condition
from tests.nodes.guidance.test_hooks import random

SITE = "feature.up.1"
SETTINGS: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "attention": (1,), "heads": 1, "context_dim": 6}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoiser() -> Any:
    return random(new_unet(**SETTINGS, vector_dim=None))


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Condition]:
    return draw(batch, 4, 8, 8, seed=1), torch.tensor([300.0]), Condition(tokens=draw(1, 3, 6, seed=2))


class Logits(torch.nn.Module):
    """A classifier whose logits are the features themselves."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_one_call_gives_the_prediction_and_the_features() -> None:
    model, arguments = denoiser(), inputs()
    both = predict_with_features(model, *arguments, site=SITE)
    assert torch.equal(both.prediction.value, predict(model, *arguments).value)
    assert torch.equal(both.features, features(model, *arguments, site=SITE))
    with pytest.raises(ValueError, match=r"'feature\.up' names 4 sites"):
        predict_with_features(model, *arguments, site="feature.up")


def test_the_loss_is_the_cross_entropy_of_each_cell() -> None:
    logits, share = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1).softmax(1)
    expected = -(share * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(feature_classes_loss(Logits(), logits, share), expected.mean())
    focus = draw(2, 1, 4, 4, seed=2).sigmoid()
    weight = 1 + 3 * focus[:, 0]
    actual = feature_classes_loss(Logits(), logits, share, focus, focus_weight=3.0)
    torch.testing.assert_close(actual, (weight * expected).sum() / weight.sum())


def test_features_that_say_nothing_cost_the_logarithm_of_the_number_of_classes() -> None:
    share = torch.nn.functional.one_hot(torch.arange(2 * 4 * 4).reshape(2, 4, 4) % 5).permute(0, 3, 1, 2).float()
    loss = feature_classes_loss(Logits(), torch.zeros(2, 5, 4, 4), share, share[:, :1], focus_weight=7.0)
    assert float(loss) == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("share", "focus", "message"),
    [
        ((2, 4, 4, 4), None, r"logits \(2, 3, 4, 4\) of features .* must have one shape: set 'classes'"),
        ((2, 3, 2, 2), None, "'size' of the map"),
        ((2, 3, 4, 4), (2, 4, 4), r"expected a focus \(B, 1, h, w\) for shares \(2, 3, 4, 4\); found \(2, 4, 4\)"),
        ((2, 3, 4, 4), (2, 1, 8, 8), "expected a focus"),
    ],
)
def test_other_shapes_are_refused(share: tuple[int, ...], focus: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_classes_loss(
            Logits(), torch.zeros(2, 3, 4, 4), torch.zeros(share), None if focus is None else torch.zeros(focus)
        )


def test_features_of_another_site_are_refused_with_the_setting() -> None:
    classifier = new_feature_classifier(channels=8)
    with pytest.raises(ValueError, match=r"features \(B, 8, h, w\); found \(2, 16, 4, 4\): set 'channels'"):
        classifier(torch.zeros(2, 16, 4, 4))


def test_the_gradient_reaches_the_classifier_the_denoiser_and_the_tokens() -> None:
    model, classifier = denoiser().requires_grad_(True), new_feature_classifier(channels=16, classes=5)
    classifier.requires_grad_(True)
    x, t, condition = inputs()
    assert condition.tokens is not None
    tokens = condition.tokens.requires_grad_(True)
    share = draw(2, 5, 8, 8, seed=3).softmax(1)
    both = predict_with_features(model, x, t, Condition(tokens=tokens), site=SITE)
    feature_classes_loss(classifier, both.features, share).backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0
    assert model.network.stem.weight.grad.abs().sum() > 0
    assert model.network.head.weight.grad is None  # the head comes after the site


def test_a_network_learns_the_classes_through_its_features() -> None:
    torch.manual_seed(0)
    model, classifier = denoiser().requires_grad_(True), new_feature_classifier(channels=16, classes=4, width=16)
    classifier.requires_grad_(True)
    x, t, condition = inputs(4)
    share = torch.nn.functional.one_hot((x[:, 0] > 0).long() + 2 * (x[:, 1] > 0), 4).permute(0, 3, 1, 2).float()
    optimiser = torch.optim.Adam([*model.parameters(), *classifier.parameters()], lr=1e-2)
    losses = []
    for _ in range(60):
        both = predict_with_features(model, x, t, condition, site=SITE)
        loss = feature_classes_loss(classifier, both.features, share)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.2
    assert losses[-1] < 0.5 * losses[0]


def test_a_compiled_network_records_features_in_one_graph() -> None:
    model = denoiser()
    assert isinstance(model, HookedDenoiser)
    x, t, _ = inputs()
    arguments = (x, t.expand(2), Condition(tokens=draw(2, 3, 6, seed=2)), select_sites(model, SITE))
    expected, values = model.captured(*arguments)
    model.network.compile(backend="eager", fullgraph=True)  # type: ignore[attr-defined]
    prediction, compiled = model.captured(*arguments)
    torch.testing.assert_close(prediction.value, expected.value)
    (site,) = values
    torch.testing.assert_close(compiled[site], values[site])

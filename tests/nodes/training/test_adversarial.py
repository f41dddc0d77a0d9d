"""The patch discriminator, its losses, and the adaptive weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder, VQAutoencoder, VQConfig
from guidegraph.nodes.training.adversarial import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    new_discriminator,
    sum_losses,
)
from guidegraph.nodes.types import Discriminator


@pytest.fixture(autouse=True)
def _set_seed() -> None:
    torch.manual_seed(0)


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64) * 2 - 1


def constant(value: float) -> Any:
    return lambda image: image.mean((1, 2, 3), keepdim=True) * 0 + value


@pytest.mark.parametrize(("layers", "patch"), [(2, 34), (3, 70)])
def test_every_logit_sees_one_patch(layers: int, patch: int) -> None:
    network: Any = new_discriminator(channels=8, layers=layers)
    assert isinstance(network, Discriminator)
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    network.layers = nn.Sequential(*(m for m in network.layers if not isinstance(m, nn.GroupNorm)))
    logits = network(image)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == patch


def test_pictures_are_judged_independently_without_batch_statistics() -> None:
    network: Any = new_discriminator(channels=8)
    network.train()
    image = pictures()
    torch.testing.assert_close(network(image)[:1], network(image[:1]))
    assert not list(network.buffers())


def test_hinge_is_zero_beyond_the_margin_and_two_cross_entropies_are_vanilla() -> None:
    real, fake = pictures(), pictures()
    assert discriminator_loss(constant(0.0), real, fake) == 1
    assert discriminator_loss(constant(2.0), real, fake) == pytest.approx(1.5)
    assert discriminator_loss(lambda image: constant(1.5 if image is real else -1.5)(image), real, fake) == 0
    vanilla = discriminator_loss(constant(0.0), real, fake, kind="vanilla")
    torch.testing.assert_close(vanilla, torch.tensor(2.0).log())


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_discriminators_loss_raises_real_and_lowers_fake_logits(kind: Any) -> None:
    of_real, of_fake = torch.full((2, 1, 2, 2), 0.5).requires_grad_(), torch.zeros(2, 1, 2, 2).requires_grad_()
    real = pictures()
    loss = discriminator_loss(lambda image: of_real if image is real else of_fake, real, pictures(), kind=kind)
    up, down = torch.autograd.grad(loss, (of_real, of_fake))
    assert bool((up < 0).all())
    assert bool((down > 0).all())


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_generator_gets_gradients_only_from_its_own_loss(kind: Any) -> None:
    network: Any = new_discriminator(channels=8).requires_grad_(True)  # type: ignore[attr-defined]
    fake = pictures().requires_grad_()
    loss = generator_loss(network, fake, kind=kind)
    (gradient,) = torch.autograd.grad(loss, fake)
    with torch.no_grad():
        assert network(fake - 10 * gradient).mean() > network(fake).mean()
    judged = discriminator_loss(network, pictures(), fake, kind=kind)
    assert torch.autograd.grad(judged, fake, allow_unused=True) == (None,)


def test_before_the_start_nothing_is_computed() -> None:
    def never(image: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    assert discriminator_loss(never, pictures(), pictures(), 4, start=5) == 0
    assert generator_loss(never, pictures(), 4, start=5) == 0
    with pytest.raises(AssertionError):
        generator_loss(never, pictures(), 5, start=5)


class Linear(nn.Module):
    """A decoder of one layer: picture = w · h."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))

    @property
    def last_layer(self) -> torch.Tensor:
        return self.weight


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_at_the_last_layer() -> None:
    network: Any = Linear()
    h, target = torch.tensor([0.3, 0.5]), torch.tensor(0.7)
    picture = network.weight @ h
    reconstruction, generator = (picture - target) ** 2, -3 * picture
    out = adaptive_weight(reconstruction, generator, network, factor=0.5)
    weight = 2 * abs(0.6 - 0.5 - 0.7) * h.norm() / (3 * h.norm() + 1e-6)
    torch.testing.assert_close(out.weight, weight)
    torch.testing.assert_close(out.loss, 0.5 * weight * generator)
    assert not out.weight.requires_grad
    (gradient,) = torch.autograd.grad(out.loss, network.weight)
    torch.testing.assert_close(gradient, 0.5 * weight * -3 * h)


def test_the_adaptive_weight_is_bounded_and_zero_before_the_start() -> None:
    network: Any = Linear()
    picture = network.weight.sum()
    strong, weak = 1e6 * picture, 1e-3 * picture
    assert adaptive_weight(strong, weak, network).weight == 1e4
    assert adaptive_weight(strong, weak, network, largest=7.0).weight == 7
    early = adaptive_weight(picture, picture, network, 9, start=10)
    assert (early.weight, early.loss) == (0, 0)
    assert adaptive_weight(picture, picture, network, 10, start=10).weight == pytest.approx(1, abs=1e-5)


def test_the_adaptive_weight_reports_a_missing_gradient_or_last_layer() -> None:
    network: Any = Linear()
    picture = network.weight.sum()
    with pytest.raises(ValueError, match=r"'generator' has no gradient at step 3: .* need one 'start'"):
        adaptive_weight(picture, torch.zeros(()), network, 3)
    with pytest.raises(ValueError, match="ReLU does not say which its last layer is"):
        adaptive_weight(picture, picture, nn.ReLU())  # type: ignore[arg-type]


def test_a_picture_without_a_whole_patch_is_refused() -> None:
    network = new_discriminator(channels=8, layers=2)
    assert network(torch.zeros(1, 3, 12, 12)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="pictures of 12 pixels a side or more; found 11 × 64"):
        network(torch.zeros(1, 3, 11, 64))


def test_both_autoencoders_name_the_weight_of_their_last_convolution() -> None:
    for network in (KLAutoencoder(AutoencoderConfig(channels=8)), VQAutoencoder(VQConfig(channels=8))):
        assert network.last_layer.shape == (3 * 2**2, 8, 3, 3)
        (gradient,) = torch.autograd.grad(network.decode(torch.randn(1, 4, 4, 4)).sum(), network.last_layer)
        assert gradient.abs().max() > 0


def test_losses_add_up_with_their_weights() -> None:
    a, b = torch.tensor(2.0), torch.tensor(3.0)
    assert sum_losses([a, b]) == 5
    assert sum_losses([a, b], weights=[0.5, 2.0]) == 7
    with pytest.raises(ValueError, match="2 losses need as many weights; found 1"):
        sum_losses([a, b], weights=[1.0])
    with pytest.raises(ValueError, match="there are no losses to add"):
        sum_losses([])
    with pytest.raises(ValueError, match=r"a loss is one number; found shapes \[\(\), \(2,\)\]"):
        sum_losses([a, torch.ones(2)])

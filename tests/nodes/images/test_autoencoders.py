"""KL and VQ autoencoders at every factor of the paper, saved models, and latents that are encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.images.autoencoder import decode, encode
from guidegraph.nodes.images.vq import new_vq_autoencoder, vq_autoencoder_loss
from guidegraph.nodes.models import model_nodes as model
from guidegraph.nodes.models.own.autoencoder import kl_divergence
from guidegraph.nodes.training import losses
from guidegraph.nodes.training.autoencoder import measure_scale
from guidegraph_scenes.datasets import scenes
from guidegraph_scenes.latents import latents
from tests.nodes.models.test_models import small_autoencoder

FACTORS = [(1, 1, 1), (2, 2, 1), (4, 2, 2), (8, 2, 3), (16, 4, 3), (32, 4, 4)]
"""f, the pixels folded into channels, and the number of resolutions."""


@pytest.fixture(autouse=True)
def _set_seed() -> None:
    torch.manual_seed(0)


def waves(batch: int = 4) -> torch.Tensor:
    """Smooth pictures (B, 3, 64, 64), which a few training steps can learn."""
    x = torch.linspace(0, 3, 64)
    phase = torch.rand(batch, 3, 1, 1) * 6
    return 0.7 * torch.sin(x[None, None, :, None] + 0.5 * x + phase)


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize(("factor", "patch", "levels"), FACTORS, ids=lambda value: str(value))
def test_an_autoencoder_of_every_factor_trains(kind: str, factor: int, patch: int, levels: int) -> None:
    shape: dict[str, Any] = {"channels": 8, "multipliers": (1,) * levels, "patch": patch}
    made = model.new_autoencoder(**shape) if kind == "kl" else new_vq_autoencoder(**shape, codes=64, decay=0.9)
    network: Any = made
    network.train().requires_grad_(True)
    image = waves()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    history = []
    for step in range(8):
        out: Any = (
            losses.kl_autoencoder_loss(network, image, step) if kind == "kl" else vq_autoencoder_loss(network, image)
        )
        history.append(float(out.loss.detach()))
        for parameter, gradient in zip(
            network.parameters(), torch.autograd.grad(out.loss, list(network.parameters())), strict=True
        ):
            parameter.grad = gradient
        optimiser.step()
    network.eval().requires_grad_(False)
    latent = encode(network, image)
    assert network.config.factor == factor
    assert latent.shape == (4, 4, 64 // factor, 64 // factor)
    assert decode(network, latent).shape == image.shape
    assert min(history[4:]) < 0.9 * history[0]


def test_the_kl_weight_is_one_millionth_of_a_divergence_summed_over_the_latent() -> None:
    network = small_autoencoder()
    image = waves(2)
    with_kl, without = (losses.kl_autoencoder_loss(network, image, kl=weight) for weight in (1e-6, 0.0))
    mean, log_variance = network.moments(image)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
    torch.testing.assert_close(kl_divergence(mean, log_variance), divergence)
    torch.testing.assert_close(with_kl.loss - without.loss, 1e-6 * divergence, rtol=1e-2, atol=1e-6)
    assert losses.kl_autoencoder_loss(network, image).loss == with_kl.loss


def test_other_picture_sizes_and_autoencoders_raise() -> None:
    kl, vq, odd = small_autoencoder(), new_vq_autoencoder(channels=8, codes=16), torch.zeros(1, 3, 66, 64)
    for loss, network, other in ((losses.kl_autoencoder_loss, kl, vq), (vq_autoencoder_loss, vq, kl)):
        with pytest.raises(ValueError, match="sides are multiples of 4; found 66 × 64: resize them"):
            loss(network, odd)
        with pytest.raises(ValueError, match=rf"found {type(other).__name__}"):
            loss(other, waves(1))


@pytest.mark.parametrize("decay", [None, 0.99])
def test_a_saved_vq_autoencoder_keeps_its_codes_and_scale(tmp_path: Path, decay: float | None) -> None:
    made: Any = new_vq_autoencoder(channels=8, codes=32, decay=decay, latent_channels=3)
    made.scale.fill_(0.7)
    model.save_model(autoencoder=made, path=tmp_path, dtype="float32")
    loaded: Any = model.load_model(path=tmp_path).autoencoder
    latent, image = torch.randn(1, 3, 4, 4), waves(1)
    assert torch.equal(loaded.decode(latent), made.decode(latent))
    assert torch.equal(loaded.encode(image), made.encode(image))
    assert loaded.config == made.config
    assert loaded.scale == made.scale


def test_an_unscaled_latent_is_not_of_unit_variance() -> None:
    made: Any = new_vq_autoencoder(channels=8, codes=32)
    batches = scenes(batch=4, count=2).batches
    scaled: Any = measure_scale(made, batches)
    actual = torch.cat([encode(scaled, batch.image) for batch in batches])
    torch.testing.assert_close(actual.std(), torch.tensor(1.0))
    assert made.encode(batches[0].image).std() != pytest.approx(1.0, abs=0.05)


class Counting:
    """An autoencoder that counts how often it encodes."""

    def __init__(self, network: Any) -> None:
        self.network, self.count = network, 0

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.count += 1
        latent: torch.Tensor = self.network.encode(image)
        return latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def test_each_batch_is_encoded_once_and_equals_what_encode_gives() -> None:
    batches = scenes(batch=3, count=5).batches
    network = Counting(small_autoencoder())
    made = latents(batches, network, count=4).batches
    assert len(made) == 4
    assert network.count == 0
    for _ in range(3):
        for i in range(4):
            torch.testing.assert_close(made[i].latent, network.network.encode(batches[i].image), rtol=1e-3, atol=1e-3)
    assert network.count == 4
    assert made[1].latent.dtype == torch.float32
    assert torch.equal(made[-1].latent, made[3].latent)
    with pytest.raises(IndexError, match="batch 4 of 4"):
        made[4]


def test_the_other_fields_of_a_batch_are_kept() -> None:
    batches = scenes(batch=3, count=2).batches
    made, batch = latents(batches, small_autoencoder()).batches, batches[1]
    assert made[1].caption == batch.caption
    assert torch.equal(made[1].label, batch.label)
    assert torch.equal(made[1].semantic, batch.semantic)
    assert len(made) == 2


def test_latents_depend_on_neither_the_order_of_access_nor_autocast() -> None:
    batches, network = scenes(batch=2, count=3).batches, small_autoencoder()
    forward = [batch.latent for batch in latents(batches, network).batches]
    with torch.autocast("cpu", torch.bfloat16):
        again = latents(batches, network).batches
        backward = [again[i].latent for i in (2, 1, 0)]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))

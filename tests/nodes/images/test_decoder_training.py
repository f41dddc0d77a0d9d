"""Training a decoder alone: the latents stay, and so do the denoisers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.training.trained_model import list_trained_parameters, live_copy
from guidegraph.nodes.images.autoencoder import decode, encode
from guidegraph.nodes.images.vq import new_vq_autoencoder
from guidegraph.nodes.models.model_nodes import load_model, save_model
from guidegraph.nodes.training import losses
from guidegraph.nodes.training.autoencoder import freeze_encoder, renew_decoder
from tests.nodes.models.test_models import small_autoencoder

CPU = torch.device("cpu")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def autoencoder() -> Any:
    network = small_autoencoder()
    network.scale.fill_(1.7)
    return network


def test_a_frozen_encoder_changes_neither_latents_nor_pictures(autoencoder: Any, image: torch.Tensor) -> None:
    frozen = freeze_encoder(autoencoder)
    assert torch.equal(encode(frozen, image), encode(autoencoder, image))
    assert torch.equal(decode(frozen, encode(frozen, image)), decode(autoencoder, encode(autoencoder, image)))


def test_a_renewed_decoder_has_its_own_size_and_the_latents_stay(autoencoder: Any, image: torch.Tensor) -> None:
    latent = encode(autoencoder, image)
    first, again, other = (renew_decoder(autoencoder, channels=12, blocks=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(encode(first, image), latent)
    assert decode(first, latent).shape == image.shape
    assert torch.equal(decode(first, latent), decode(again, latent))
    assert not torch.equal(decode(first, latent), decode(other, latent))
    same_size: Any = renew_decoder(autoencoder)
    assert [p.shape for p in same_size.parameters()] == [p.shape for p in autoencoder.parameters()]
    wider: Any = first
    assert wider.decoder[0].weight.shape[0] == 24
    assert len(wider.decoder) == len(autoencoder.decoder) + 2


@pytest.mark.parametrize("renewed", [False, True])
def test_a_training_reaches_the_decoder_alone(renewed: bool, autoencoder: Any, image: torch.Tensor) -> None:
    made: Any = renew_decoder(autoencoder, channels=12) if renewed else freeze_encoder(autoencoder)
    network: Any = live_copy(made, CPU).train()
    trained = list_trained_parameters(network)
    assert {id(p) for p in trained} == {id(p) for p in network.decoder.parameters()}
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(trained, lr=5e-3)
    history = []
    for _ in range(10):
        loss = losses.kl_autoencoder_loss(network, image).loss
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0]
    network.eval().requires_grad_(False)
    assert torch.equal(encode(network, image), encode(autoencoder, image))


def test_it_is_saved_as_an_autoencoder(autoencoder: Any, image: torch.Tensor, tmp_path: Path) -> None:
    renewed = renew_decoder(autoencoder, channels=12, blocks=2)
    save_model(autoencoder=renewed, path=tmp_path, dtype="float32")
    loaded: Any = load_model(path=tmp_path).autoencoder
    assert type(loaded) is type(autoencoder)
    torch.testing.assert_close(decode(loaded, encode(loaded, image)), decode(renewed, encode(renewed, image)))


def test_other_autoencoders_raise() -> None:
    vq = new_vq_autoencoder(channels=8, codes=16)
    for make in (freeze_encoder, renew_decoder):
        with pytest.raises(ValueError, match=r"only the decoder of a model.autoencoder.*found VQAutoencoder"):
            make(vq)

"""The vector quantiser: gradients of its terms, the straight-through estimator, moving averages, usage."""

from __future__ import annotations

import math

import pytest
import torch

from guidegraph.graph.training.ranks import Rank, use_rank
from guidegraph.nodes.images.vq import codebook_usage, new_vq_autoencoder, vq_autoencoder_loss
from guidegraph.nodes.models.own import autoencoder
from guidegraph.nodes.models.own.autoencoder import DEAD, VectorQuantiser, VQAutoencoder, VQConfig, measure_usage
from guidegraph_scenes.datasets import scene
from tests.nodes.models.test_models import small_autoencoder


@pytest.fixture(autouse=True)
def _set_seed() -> None:
    torch.manual_seed(0)


def vectors(count: int = 2, width: int = 4, side: int = 4) -> torch.Tensor:
    return torch.randn(count, width, side, side)


def network(decay: float | None = None) -> VQAutoencoder:
    return VQAutoencoder(VQConfig(channels=8, codes=16, decay=decay)).train()


def test_every_vector_becomes_the_nearest_code() -> None:
    quantiser, z = VectorQuantiser(16, 4), vectors()
    distance = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4), quantiser.codebook)
    expected = quantiser.codebook[distance.argmin(1)].reshape(2, 4, 4, 4).permute(0, 3, 1, 2)
    assert torch.equal(quantiser.quantise(z), expected)
    assert torch.equal(quantiser.quantise(expected), expected)


def test_the_nearest_code_is_searched_in_full_precision_under_autocast() -> None:
    quantiser = VectorQuantiser(2, 1)
    with torch.no_grad():
        quantiser.codebook.copy_(torch.tensor([[100.0], [100.2]]))  # one number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert quantiser.nearest(torch.tensor([100.05, 100.15]).reshape(1, 1, 1, 2)).tolist() == [[[0, 1]]]


def test_the_straight_through_estimator_passes_the_gradient_unchanged() -> None:
    quantiser, z, weight = VectorQuantiser(16, 4), vectors().requires_grad_(), vectors()
    out = quantiser(z).z
    torch.testing.assert_close(out, quantiser.quantise(z))
    to_z, to_codes = torch.autograd.grad((out * weight).sum(), (z, quantiser.codebook), allow_unused=True)
    assert torch.equal(to_z, weight)
    assert to_codes is None


def test_the_codebook_term_moves_only_the_codes_and_the_commitment_only_the_encoder() -> None:
    quantiser, z = VectorQuantiser(16, 4), vectors().requires_grad_()
    out = quantiser(z)
    e = quantiser.quantise(z)
    inputs = (z, quantiser.codebook)
    none, codes = torch.autograd.grad(out.codebook, inputs, retain_graph=True, allow_unused=True)
    encoder, nothing = torch.autograd.grad(out.commitment, inputs, retain_graph=True, allow_unused=True)
    assert none is None
    assert nothing is None
    torch.testing.assert_close(encoder, 2 * (z - e).detach() / z.numel())
    chosen = torch.nn.functional.one_hot(out.codes.flatten(), 16).float()
    pulls = 2 * (e - z).detach().permute(0, 2, 3, 1).reshape(-1, 4) / z.numel()
    torch.testing.assert_close(codes, chosen.T @ pulls)


def test_beta_scales_the_pull_on_the_encoder_and_not_that_on_the_codes() -> None:
    model = network()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    last = next(iter(model.encoder[-1].parameters()))

    def pulls(beta: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss = vq_autoencoder_loss(model, image, beta=beta).quantisation
        encoder, codes = torch.autograd.grad(loss, (last, model.quantiser.codebook), allow_unused=True)
        return torch.zeros_like(last) if encoder is None else encoder, codes

    (encoder1, codes1), (encoder3, codes3), (encoder0, codes0) = pulls(1.0), pulls(3.0), pulls(0.0)
    assert encoder1.abs().max() > 0
    assert codes1.abs().max() > 0
    torch.testing.assert_close(encoder3, 3 * encoder1)
    assert encoder0.abs().max() == 0
    torch.testing.assert_close(codes3, codes1)
    torch.testing.assert_close(codes0, codes1)


def test_the_picture_trains_the_encoder_through_the_quantiser_and_not_the_codes() -> None:
    model = network()
    loss = vq_autoencoder_loss(model, torch.rand(2, 3, 16, 16) * 2 - 1).reconstruction
    first = next(iter(model.encoder[1].parameters()))
    encoder, codes = torch.autograd.grad(loss, (first, model.quantiser.codebook), allow_unused=True)
    assert encoder.abs().max() > 0
    assert codes is None


def test_moving_averages_are_those_of_a_plain_loop() -> None:
    decay, codes = 0.9, 6
    quantiser = VectorQuantiser(codes, 3, decay).train()
    quantiser.count.fill_(2.0)
    quantiser.total.copy_(2 * quantiser.codebook)
    count = [2.0] * codes
    total = [[2 * float(x) for x in row] for row in quantiser.codebook]
    for _ in range(3):
        z = vectors(2, 3, 3)
        index = quantiser(z).codes.flatten().tolist()
        rows = z.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
        for code in range(codes):
            mine = [row for row, chosen in zip(rows, index, strict=True) if chosen == code]
            count[code] = decay * count[code] + (1 - decay) * len(mine)
            for axis in range(3):
                total[code][axis] = decay * total[code][axis] + (1 - decay) * sum(row[axis] for row in mine)
        expected = [[value / count[code] for value in total[code]] for code in range(codes)]
        assert min(count) > DEAD
        torch.testing.assert_close(quantiser.codebook, torch.tensor(expected))


def test_moving_averages_update_only_in_training_and_without_gradient() -> None:
    quantiser, z = VectorQuantiser(8, 4, 0.9), vectors()
    assert not list(quantiser.parameters())
    before = quantiser.codebook.clone()
    quantiser.eval()(z)
    quantiser.train().quantise(z)
    assert torch.equal(quantiser.codebook, before)
    quantiser(z)
    assert not torch.equal(quantiser.codebook, before)


def test_unused_codes_start_over_at_vectors_of_the_batch_and_used_ones_stay() -> None:
    quantiser, z = VectorQuantiser(8, 4, 0.99).train(), vectors()
    with torch.no_grad():
        quantiser.codebook[0] = z[0, :, 0, 0]
        quantiser.codebook[1:] = 100.0
        quantiser.count[0], quantiser.total[0] = 5.0, 5 * quantiser.codebook[0]
    quantiser(z)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 4)
    distance = torch.cdist(quantiser.codebook, rows).amin(1)
    assert bool((distance[1:] < 1e-5).all())
    torch.testing.assert_close(quantiser.count[0], torch.tensor(0.99 * 5 + 0.01 * len(rows)))


def test_the_decoder_quantises_unquantised_vectors() -> None:
    model = network().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    model.scale.fill_(0.5)
    z = vectors()
    near = model.quantiser.quantise(z / model.scale)
    picture = model.decode(z)
    assert torch.equal(picture, model.decode(near * model.scale))
    assert torch.equal(picture, model.decoder(near))
    assert not torch.allclose(picture, model.decoder(z / model.scale), atol=1e-4)


def test_encode_gives_the_vectors_before_quantisation_at_the_models_scale() -> None:
    model = network().eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    model.scale.fill_(0.25)
    torch.testing.assert_close(model.encode(image), 0.25 * model.encoder(image))
    assert not torch.allclose(model.encode(image) * 4, model.quantiser.quantise(model.encoder(image)), atol=1e-3)


def test_usage_is_the_fraction_of_codes_that_occur_and_their_perplexity() -> None:
    share, perplexity = measure_usage(torch.tensor([[0, 0], [1, 2]]), codes=8)
    assert share == 3 / 8
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    torch.testing.assert_close(perplexity, torch.tensor(math.exp(entropy)))
    assert measure_usage(torch.arange(8), 8) == (1.0, pytest.approx(8.0))


def test_usage_is_measured_on_data_and_raises_for_an_autoencoder_without_codes() -> None:
    image, network = scene(batch=3).image, new_vq_autoencoder(channels=8, codes=16)
    actual = codebook_usage(network, image)
    assert 1 / 16 <= actual.share <= 1
    assert 1 <= actual.perplexity <= 16 * actual.share + 1e-4
    assert actual == pytest.approx(codebook_usage(network, image, chunk=2))
    with pytest.raises(ValueError, match="which has a codebook; found KLAutoencoder"):
        codebook_usage(small_autoencoder(), image)


def test_the_loss_with_moving_averages_has_no_codebook_term() -> None:
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    averaged = vq_autoencoder_loss(network(decay=0.9).eval(), image, beta=0.0)
    assert averaged.quantisation == 0
    assert vq_autoencoder_loss(network().eval(), image, beta=0.0).quantisation > 0
    assert averaged.loss == averaged.reconstruction


def test_training_processes_update_the_codes_from_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    z, start = vectors(4), VectorQuantiser(8, 4, decay=0.5).state_dict()

    def update_codes(rank: Rank, rows: torch.Tensor) -> VectorQuantiser:
        network = VectorQuantiser(8, 4, decay=0.5)
        network.load_state_dict(start)
        torch.manual_seed(1)
        with use_rank(rank):
            network(rows)
        return network

    sums: list[list[torch.Tensor]] = []
    expected = update_codes(Rank(), z)
    monkeypatch.setattr(autoencoder, "sum_over_ranks", lambda own: sums.append(own) or own)
    for i in range(2):
        update_codes(Rank(i, 2), z[2 * i : 2 * i + 2])
    total = [a + b for a, b in zip(*sums, strict=True)]
    monkeypatch.setattr(autoencoder, "sum_over_ranks", lambda own: total)
    for i in range(2):
        actual = update_codes(Rank(i, 2), z[2 * i : 2 * i + 2])
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(actual.state_dict()[name], value)

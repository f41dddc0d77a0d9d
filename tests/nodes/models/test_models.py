"""The torch modules and their nodes: formulas, conditions, saving and errors."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from guidegraph.graph.node import get_spec
from guidegraph.nodes.conditioning.text_prompt import encode_text, replace_words
from guidegraph.nodes.images.autoencoder import decode
from guidegraph.nodes.models import model_nodes as model
from guidegraph.nodes.models.model_json import verify_file
from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder, kl_divergence
from guidegraph.nodes.models.own.box_detector import Detector, DetectorConfig, detector_loss
from guidegraph.nodes.models.own.layers import AdaptiveGroupNorm, Attention, timestep_embedding
from guidegraph.nodes.models.own.text_encoder import TextConfig, TextEncoder, TextModel, build_tokenizer, tokenize
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.models.store import load_part, read_index, save_parts
from guidegraph.nodes.sampling.denoiser import guide_denoiser, predict
from guidegraph.nodes.sampling.schedule import cosine
from guidegraph.nodes.training import losses
from guidegraph.nodes.training.autoencoder import measure_scale
from guidegraph.nodes.training.timesteps import uniform_timesteps
from guidegraph.nodes.types import Condition, Prediction
from guidegraph_scenes.datasets import scenes
from tests.paths import ROOT

WORDS = ["a", "tiger", "and", "palm", "tree", "on", "sand"]
SMALL: dict[str, Any] = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: torch.nn.Module) -> Any:
    """Move all weights away from zero, so that every branch has an effect; returns the frozen module."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


def text_model() -> TextModel:
    tokenizer = build_tokenizer(WORDS, length=8)
    config = TextConfig(vocabulary=tokenizer.get_vocab_size(), width=16, layers=1, heads=2, length=8)
    encoder: TextEncoder = randomise(TextEncoder(config))
    return TextModel(encoder, tokenizer)


def test_adaptive_group_norm_is_one_plus_scale_times_norm_plus_shift() -> None:
    layer: AdaptiveGroupNorm = randomise(AdaptiveGroupNorm(8, 6))
    h, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    y_s = F.linear(F.silu(embedding), layer.scale.weight, layer.scale.bias)[:, :, None, None]
    y_b = F.linear(F.silu(embedding), layer.shift.weight, layer.shift.bias)[:, :, None, None]
    torch.testing.assert_close(layer(h, embedding), (1 + y_s) * layer.norm(h) + y_b)


def test_adaptive_group_norm_starts_as_plain_group_norm() -> None:
    layer = AdaptiveGroupNorm(8, 6)
    h = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(layer(h, torch.randn(2, 6)), layer.norm(h))


def test_the_timestep_embedding_has_cosines_first_and_is_float32() -> None:
    embedding = timestep_embedding(torch.tensor([0.0, 10.0]), 8)
    assert embedding.dtype == torch.float32
    assert embedding[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    torch.testing.assert_close(embedding[1, 0], torch.tensor(10.0).cos())


def test_a_masked_key_has_no_effect_on_attention() -> None:
    attention: Attention = randomise(Attention(8, 6, heads=2))
    x, context = torch.randn(1, 3, 8), torch.randn(1, 5, 6)
    mask = torch.tensor([[True, True, True, False, False]])
    changed = context.clone()
    changed[:, 3:] = 7.0
    torch.testing.assert_close(attention(x, context, mask), attention(x, changed, mask))
    torch.testing.assert_close(attention(x, context, mask), attention(x, context[:, :3]))


def test_an_untrained_unet_predicts_zero_and_a_trained_one_depends_on_every_condition() -> None:
    config = UNetConfig(**SMALL, context_dim=12, vector_dim=5, spatial_channels=2)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 500.0])
    conditions = {"vector": torch.randn(2, 5), "tokens": torch.randn(2, 6, 12), "spatial": torch.randn(2, 2, 8, 8)}
    mask = torch.ones(2, 6, dtype=torch.bool)
    assert UNet(config)(x, t, mask=mask, **conditions).abs().max() == 0
    network = randomise(UNet(config))
    base = network(x, t, mask=mask, **conditions)
    assert base.shape == x.shape
    for name, value in conditions.items():
        assert not torch.allclose(base, network(x, t, mask=mask, **{**conditions, name: value + 1}), atol=1e-5), name
    assert not torch.allclose(base, network(x, t + 100, mask=mask, **conditions), atol=1e-5)


def test_a_unet_without_conditions_takes_none() -> None:
    network = UNet(UNetConfig(**SMALL))
    assert network(torch.randn(1, 4, 8, 8), torch.zeros(1)).shape == (1, 4, 8, 8)


def test_the_denoiser_splits_off_a_learned_variance_and_keeps_the_dtype_of_x() -> None:
    denoiser = UNetDenoiser(randomise(UNet(UNetConfig(**SMALL, out_channels=8, kind="eps")))).to(torch.bfloat16)
    prediction = denoiser(torch.randn(2, 4, 8, 8), torch.zeros(2), Condition())
    assert (prediction.kind, prediction.value.shape) == ("eps", (2, 4, 8, 8))
    assert prediction.variance is not None
    assert prediction.variance.shape == prediction.value.shape
    assert prediction.value.dtype == torch.float32


def test_predict_expands_time_and_condition_to_the_batch() -> None:
    seen: dict[str, Any] = {}

    def denoiser(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        seen.update(t=t, tokens=condition.tokens, mask=condition.mask, vector=condition.vector)
        return Prediction(x, "eps")

    single = Condition(tokens=torch.randn(1, 4, 3), mask=torch.ones(1, 4, dtype=torch.bool))
    predict(denoiser, torch.zeros(5, 4, 2, 2), torch.tensor([9.0]), single)
    assert seen["t"].tolist() == [9.0] * 5
    assert seen["tokens"].shape == (5, 4, 3)
    assert seen["mask"].shape == (5, 4)
    assert seen["vector"] is None


def test_the_guided_denoiser_is_classifier_free_guidance_and_takes_a_gradient() -> None:
    def denoiser(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        assert condition.vector is not None
        return Prediction(x * condition.vector[:, :, None, None], "eps")

    positive, negative = Condition(vector=torch.tensor([[3.0]])), Condition(vector=torch.tensor([[1.0]]))
    x = torch.ones(2, 1, 2, 2, requires_grad=True)
    guided_denoiser = guide_denoiser(denoiser, positive, negative, scale=4.0)
    value = guided_denoiser(x, torch.zeros(2), Condition()).value
    torch.testing.assert_close(value, torch.full_like(value, 1 + 4 * (3 - 1)))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 9.0))


def test_texts_are_padded_and_masked_and_the_empty_prompt_is_the_start_token_alone() -> None:
    tokenizer = build_tokenizer(WORDS, length=6)
    ids, mask = tokenize(tokenizer, ["A tiger on sand", "", "a a a a a a a a a"])
    assert ids.shape == mask.shape == (3, 6)
    assert mask.sum(1).tolist() == [5, 1, 6]
    assert ids[1].tolist() == [tokenizer.token_to_id("[START]")] + [tokenizer.token_to_id("[PAD]")] * 5
    assert ids[0, 0] == ids[1, 0]


def test_a_condition_does_not_depend_on_its_padding_or_its_neighbours() -> None:
    embedder = text_model()
    alone = encode_text(embedder, "a tiger on sand")
    batch = encode_text(embedder, ["a tiger on sand", "a palm tree and a tiger"])
    assert alone.tokens is not None
    assert batch.tokens is not None
    assert alone.tokens.shape == (1, 8, 16)
    torch.testing.assert_close(alone.tokens[0], batch.tokens[0])
    assert not torch.allclose(batch.tokens[0, 0], batch.tokens[1, 0])


def test_unknown_words_are_named_in_a_warning_with_near_ones_and_the_list() -> None:
    message = "it knows: a, and, .*, tiger"
    with pytest.warns(UserWarning, match=rf"not trained on: 'dragon', 'Tigre' \(did you mean 'tiger'\?\); {message}"):
        text_model()(["a dragon and a Tigre"])


def test_the_unknown_word_can_be_written_and_is_not_warned_of() -> None:
    tokenizer = build_tokenizer(WORDS, length=6)
    ids, _ = tokenize(tokenizer, ["a [UNK] tiger", "a dragon tiger"])
    assert torch.equal(ids[0], ids[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_model()(["a [UNK] tiger"])
    with pytest.warns(UserWarning, match=r"not trained on: 'dragon'; it"):
        text_model()(["a [UNK] dragon"])


def test_a_text_encoder_takes_texts_of_its_length() -> None:
    embedder: Any = model.new_text_transformer(words=WORDS, width=8, layers=1, heads=1, length=5)
    condition = embedder(["a tiger", "a tiger and a tiger and a tiger"])
    assert condition.tokens.shape == (2, 5, 8)
    assert condition.mask.sum(1).tolist() == [3, 5]


def small_autoencoder() -> KLAutoencoder:
    network: KLAutoencoder = randomise(KLAutoencoder(AutoencoderConfig(channels=8)))
    return network


def test_the_autoencoder_owns_its_scale() -> None:
    network = small_autoencoder()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, _ = network.moments(image)
    picture = network.decode(network.encode(image))
    network.scale.fill_(0.25)
    torch.testing.assert_close(network.encode(image), 0.25 * mean)
    torch.testing.assert_close(network.decode(network.encode(image)), picture)
    assert mean.shape == (2, 4, 4, 4)
    assert decode(network, 50 * torch.randn(1, 4, 4, 4)).abs().max() <= 1


def test_a_measured_scale_gives_latents_of_unit_variance_in_a_copy() -> None:
    network = small_autoencoder()
    batches = scenes(batch=4, count=2).batches
    measured = measure_scale(network, batches)
    latents = torch.cat([measured.encode(batch.image) for batch in batches])
    torch.testing.assert_close(latents.std(), torch.tensor(1.0))
    assert network.scale == 1


def test_the_kl_divergence_is_summed_over_elements_and_averaged_over_the_batch() -> None:
    mean, log_variance = torch.randn(3, 2, 2, 2), torch.randn(3, 2, 2, 2)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    reference = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum() / 3
    torch.testing.assert_close(kl_divergence(mean, log_variance), reference)


def test_the_autoencoder_loss_depends_on_its_index_and_reaches_the_weights() -> None:
    network = KLAutoencoder(AutoencoderConfig(channels=8))
    image = scenes(batch=2, count=1).batches[0].image
    out = losses.kl_autoencoder_loss(network, image, 3)
    assert out.loss == losses.kl_autoencoder_loss(network, image, 3).loss
    assert out.loss != losses.kl_autoencoder_loss(network, image, 4).loss
    gradients = torch.autograd.grad(out.loss, list(network.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("weighting", ["min_snr", "truncated"])
def test_weighted_losses_are_the_same_in_every_kind(kind: Any, weighting: Any) -> None:
    schedule = cosine()
    x0, noise, wrong = torch.randn(3, 4, 2, 4, 4).unbind()
    t = torch.tensor([50.0, 300.0, 600.0, 900.0])
    x = schedule.add_noise(x0, noise, t)
    prediction = schedule.convert(Prediction(x0 + 0.1 * wrong, "x0"), kind, x, t)
    loss = losses.denoising_loss(prediction, x0, noise, t, schedule, weighting=weighting)
    alpha, sigma = schedule.alpha_sigma(t)
    snr = (alpha / sigma) ** 2
    weight = snr.clamp(max=5) if weighting == "min_snr" else (snr + 1).clamp(max=6)
    expected = (weight * (0.1 * wrong).square().flatten(1).mean(1)).mean()
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_perfect_prediction_has_no_loss(kind: Any) -> None:
    schedule = cosine()
    x0, noise = torch.randn(2, 4, 2, 4, 4).unbind()
    t = torch.tensor([10.0, 300.0, 600.0, 900.0])
    x = schedule.add_noise(x0, noise, t)
    prediction = schedule.convert(Prediction(noise, "eps"), kind, x, t)
    assert losses.denoising_loss(prediction, x0, noise, t, schedule) < 1e-5


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_distilling_a_teacher_that_knows_the_noise_is_the_denoising_loss(kind: Any) -> None:
    schedule = cosine()
    x0, noise, wrong = torch.randn(3, 4, 2, 4, 4).unbind()
    t = torch.tensor([50.0, 300.0, 600.0, 900.0])
    x = schedule.add_noise(x0, noise, t)
    teacher = schedule.convert(Prediction(noise, "eps"), kind, x, t)
    student = Prediction((teacher.value + wrong).requires_grad_(), kind)
    loss = losses.distillation_loss(student, teacher, t, schedule, weighting="truncated")
    expected = losses.denoising_loss(student, x0, noise, t, schedule, weighting="truncated")
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-5)


def test_losses_of_other_shapes_are_refused_and_not_spread() -> None:
    schedule, t = cosine(), torch.tensor([500.0])
    x0, small = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 1, 1)
    with pytest.raises(ValueError, match="the prediction, x0 and noise must be of one size"):
        losses.denoising_loss(Prediction(small, "eps"), x0, x0, t, schedule)
    with pytest.raises(ValueError, match="the prediction and the teacher's must be of one size"):
        losses.distillation_loss(Prediction(small, "v"), Prediction(x0, "v"), t, schedule)


def test_timesteps_and_vectors_of_other_batches_are_refused() -> None:
    schedule, t, x0 = cosine(), torch.tensor([500.0, 300.0]), torch.randn(4, 2, 4, 4)
    with pytest.raises(ValueError, match=r"t has shape \(2,\) and x has 4 samples"):
        losses.denoising_loss(Prediction(x0, "eps"), x0, x0, t, schedule)
    with pytest.raises(ValueError, match=r"t has shape \(2,\) and x has 4 samples"):
        losses.distillation_loss(Prediction(x0, "v"), Prediction(x0, "v"), t, schedule)
    for shape in ((3, 1), (2, 4)):
        with pytest.raises(ValueError, match=r"the vectors must be of one size.*found shapes \(3, 4\) and"):
            losses.vector_loss(Condition(vector=torch.zeros(3, 4)), Condition(vector=torch.zeros(shape)))


def test_invalid_settings_are_refused_when_the_network_is_built() -> None:
    with pytest.raises(ValueError, match="40 channels cannot be shared by 3 heads"):
        model.new_unet(channels=20, multipliers=(1, 2), attention=(1,), heads=3)
    with pytest.raises(ValueError, match="must be a multiple of 4; found 30"):
        model.new_classifier(size=30)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        get_spec(model.new_unet).settings["spatial_channels"].literal(-1)


def test_a_teacher_of_another_kind_is_refused_and_gets_no_gradient() -> None:
    schedule, t = cosine(), torch.tensor([500.0])
    student, teacher = (torch.randn(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match="of one kind; found 'v' and teacher 'eps'"):
        losses.distillation_loss(Prediction(student, "v"), Prediction(teacher, "eps"), t, schedule)
    losses.distillation_loss(Prediction(student, "v"), Prediction(teacher, "v"), t, schedule).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_distance_of_vectors_has_a_gradient_for_the_first_only() -> None:
    ours, target = torch.zeros(2, 3, requires_grad=True), torch.full((2, 3), 2.0, requires_grad=True)
    loss = losses.vector_loss(Condition(vector=ours), Condition(vector=target))
    assert float(loss) == 4
    loss.backward()
    assert ours.grad is not None
    assert target.grad is None
    with pytest.raises(ValueError, match="expected two conditions with a vector"):
        losses.vector_loss(Condition(vector=ours), Condition())


def test_timesteps_fill_the_schedule_evenly() -> None:
    schedule = cosine()
    t = uniform_timesteps(torch.zeros(10, 4, 2, 2), schedule, 3)
    assert t.dtype == torch.float32
    assert sorted((t // 100).tolist()) == list(range(10))
    assert torch.equal(t, uniform_timesteps(torch.zeros(10, 4, 2, 2), schedule, 3))
    assert not torch.equal(t, uniform_timesteps(torch.zeros(10, 4, 2, 2), schedule, 4))


def test_untrained_models_depend_only_on_their_seed() -> None:
    first: Any = model.new_unet(seed=1, channels=16, multipliers=(1, 2), attention=(1,))
    torch.rand(3)
    again: Any = model.new_unet(seed=1, channels=16, multipliers=(1, 2), attention=(1,))
    other: Any = model.new_unet(seed=2, channels=16, multipliers=(1, 2), attention=(1,))
    assert torch.equal(first.network.stem.weight, again.network.stem.weight)
    assert not torch.equal(first.network.stem.weight, other.network.stem.weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_a_saved_model_loads_unchanged_and_frozen(tmp_path: Path) -> None:
    denoiser = UNetDenoiser(randomise(UNet(UNetConfig(**SMALL, context_dim=16, vector_dim=16, kind="v"))))
    network, text, schedule = small_autoencoder(), text_model(), cosine(train_steps=50)
    network.scale.fill_(0.93)
    model.save_model(denoiser, network, text, schedule, path=tmp_path / "m", dtype="float32")
    loaded: Any = model.load_model(path=tmp_path / "m")
    x, t, prompt = torch.randn(1, 4, 8, 8), torch.tensor([7.0]), "a tiger"
    before = predict(denoiser, x, t, encode_text(text, prompt))
    after = predict(loaded.denoiser, x, t, encode_text(loaded.text, prompt))
    assert torch.equal(before.value, after.value)
    assert after.kind == "v"
    assert torch.equal(loaded.autoencoder.decode(x), network.decode(x))
    assert torch.equal(loaded.schedule.alphas_bar, schedule.alphas_bar)
    assert not any(p.requires_grad for p in loaded.denoiser.parameters())
    assert not list((tmp_path / "m").glob("*.tmp"))


def test_saving_a_part_keeps_the_others(tmp_path: Path) -> None:
    model.save_model(autoencoder=small_autoencoder(), path=tmp_path)
    model.save_model(text=text_model(), path=tmp_path)
    parts = json.loads((tmp_path / "model.json").read_text())["parts"]
    assert set(parts) == {"autoencoder", "text"}


def save_small_model(folder: Path) -> Path:
    """A small model: an autoencoder, a text encoder and a schedule."""
    model.save_model(autoencoder=small_autoencoder(), text=text_model(), schedule=cosine(train_steps=50), path=folder)
    return folder


@pytest.mark.parametrize(
    "name", ["autoencoder.safetensors", "text.safetensors", "tokenizer.json", "schedule.safetensors"]
)
def test_a_flipped_bit_in_a_file_of_a_saved_model_is_refused(name: str, tmp_path: Path) -> None:
    file = save_small_model(tmp_path) / name
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"cannot be loaded: .*{name} is damaged, or belongs to another model"):
        model.load_model(path=tmp_path)


def test_a_changed_model_json_is_refused_while_it_has_its_checksum(tmp_path: Path) -> None:
    index = save_small_model(tmp_path) / "model.json"
    text = index.read_text()
    index.write_text(text.replace('"schedule.safetensors"\n', '"schedule.safetensors", "trained_to": 7\n', 1))
    with pytest.raises(ValueError, match=r"its parts are not those that were saved.*take 'parts' out of \"checksums\""):
        model.load_model(path=tmp_path)
    content = json.loads(index.read_text())
    del content["checksums"]["parts"]
    index.write_text(json.dumps(content))
    loaded: Any = model.load_model(path=tmp_path)
    assert loaded.schedule.trained_to == 7


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        network: Any = model.new_unet(seed=seed, channels=16, multipliers=(1, 2), attention=(1,))
        model.save_model(network, path=tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / "denoiser.safetensors", tmp_path / "2")
    with pytest.raises(ValueError, match="belongs to another model"):
        model.load_model(path=tmp_path / "2")


def test_weights_that_do_not_fit_the_config_are_named_on_one_line(tmp_path: Path) -> None:
    network: Any = model.new_unet(seed=1, channels=16, multipliers=(1, 2), attention=(1,))
    model.save_model(network, path=tmp_path)
    weights = load_file(tmp_path / "denoiser.safetensors")
    missing, cut = sorted(weights)[:2]
    del weights[missing]
    weights[cut] = weights[cut][:1].clone()
    save_file(weights | {"extra": torch.zeros(1)}, tmp_path / "denoiser.safetensors")
    index = tmp_path / "model.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"checksums": {}}))
    with pytest.raises(ValueError, match=r"do not fit its config in model\.json") as error:
        model.load_model(path=tmp_path)
    assert f"missing: {missing} (1 in all); unknown: extra (1 in all); of another shape: {cut} (1," in str(error.value)
    assert "\n" not in str(error.value)


def test_shipped_models_state_checksums_of_all_their_files() -> None:
    folders = [path.parent for path in (ROOT / "workflows" / "models").glob("*/model.json")]
    assert len(folders) > 10
    for folder in folders:
        entry = json.loads((folder / "model.json").read_text(encoding="utf-8"))["checksums"]
        assert {file.name for file in folder.iterdir()} == {"model.json", *entry["files"]}
        read_index(folder)
        for name in entry["files"]:
            verify_file(folder / name, entry)


def test_a_model_without_checksums_is_read_and_gets_them_only_for_new_parts(tmp_path: Path) -> None:
    index = save_small_model(tmp_path) / "model.json"
    content = json.loads(index.read_text())
    del content["checksums"]
    index.write_text(json.dumps(content))
    model.load_model(path=tmp_path)
    model.save_model(text=text_model(), path=tmp_path)
    assert set(json.loads(index.read_text())["checksums"]["files"]) == {"text.safetensors", "tokenizer.json"}
    model.load_model(path=tmp_path)


def test_a_missing_part_raises_an_error_on_use(tmp_path: Path) -> None:
    model.save_model(autoencoder=small_autoencoder(), path=tmp_path)
    loaded = model.load_model(path=tmp_path)
    with pytest.raises(ValueError, match="has no part 'text'"):
        encode_text(loaded.text, "a tiger")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a model folder: it has no model\.json"):
        model.load_model(path=tmp_path)
    index = {"format": 1, "parts": {"denoiser": {"kind": "unet", "config": {}, "weights": "../secret.safetensors"}}}
    (tmp_path / "model.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not the plain name of a file"):
        model.load_model(path=tmp_path)
    index["parts"]["denoiser"]["kind"] = "transformer"
    (tmp_path / "model.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="unknown kind 'transformer'; known are unet"):
        model.load_model(path=tmp_path)


def test_the_detector_reads_objects_anywhere_and_learns_from_labels() -> None:
    config = DetectorConfig(channels=8)
    detector = Detector(config)
    batch = scenes(batch=2, count=1, split="all").batches[0]
    logits = detector(batch.image)
    assert logits.shape == (2, config.classes)
    (gradient,) = torch.autograd.grad(detector_loss(logits, batch.label, config), detector.head.weight)
    assert gradient.abs().max() > 0
    perfect = 40 * (batch.label - 0.5)
    assert detector_loss(perfect, batch.label, config) < 1e-6


def test_every_kind_of_part_can_be_saved_and_others_are_refused(tmp_path: Path) -> None:
    detector = Detector(DetectorConfig(channels=8)).eval()
    save_parts(tmp_path, {"detector": detector}, dtype=torch.float32)
    again = load_part(tmp_path, "detector", device=torch.device("cpu"), dtype=torch.float32)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(detector(image), again(image))
    with pytest.raises(ValueError, match="a Linear cannot be saved as a model part"):
        save_parts(tmp_path, {"x": torch.nn.Linear(1, 1)})


def test_a_unet_that_folds_pixels_is_one_on_the_folded_picture() -> None:
    folded: UNet = randomise(UNet(UNetConfig(**SMALL, in_channels=1, out_channels=1, spatial_channels=2, patch=2)))
    plain = UNet(UNetConfig(**SMALL, in_channels=4, out_channels=4, spatial_channels=8))
    plain.load_state_dict(folded.state_dict())
    x, spatial, t = torch.randn(2, 1, 16, 16), torch.randn(2, 2, 16, 16), torch.tensor([3.0, 800.0])
    expected = plain(F.pixel_unshuffle(x, 2), t, spatial=F.pixel_unshuffle(spatial, 2))
    torch.testing.assert_close(folded(x, t, spatial=spatial), F.pixel_shuffle(expected, 2))


def test_attention_that_is_trained_gives_what_the_fused_kernel_gives() -> None:
    layer: Attention = randomise(Attention(8, 6, 2))
    x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    mask = torch.arange(7)[None] < torch.tensor([[7], [3]])
    fused = layer(x, context, mask)
    trained = layer.requires_grad_(True)(x, context, mask)
    assert trained.requires_grad
    torch.testing.assert_close(trained.detach(), fused)


def test_words_are_replaced_whole_and_longer_phrases_first() -> None:
    words = {"car": "automobile", "palm tree": "coconut palm", "tree": "shrub", "sky": "air"}
    guided_denoiser = replace_words(["a Car and a cartoon under a palm tree", "a tree, a car"], words=words)
    assert guided_denoiser == ["a automobile and a cartoon under a coconut palm", "a shrub, a automobile"]
    assert replace_words("nothing", words={}) == ["nothing"]
    with pytest.raises(ValueError, match="an empty word cannot be replaced"):
        replace_words("a", words={"": "b"})

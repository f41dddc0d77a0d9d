"""Sana with tiny random weights, saved by diffusers: against its own pipeline, with hooks, and as a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tokenizers
import torch
import transformers

import guidegraph_sana
from guidegraph import Condition, NodeError, load_workflow, select_sites
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.training.lora import apply_lora, new_lora, save_lora
from guidegraph_runtime import Bundle
from plugins.families.tests import difference_bounds
from tests.commands.command import process

WORKFLOW = Path(guidegraph_sana.__file__).with_name("text_to_image.yaml")
PLUGINS = ("guidegraph_sana",)
LATENT = [4, 6, 4]
FIXED = "in: {{embedder: model.text}}, with: {{prompt: '{}'}}"
PARTS = ("denoiser", "text", "autoencoder", "schedule")


def make_tokenizer() -> Any:
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = {token: i for i, token in enumerate(["<pad>", "<bos>", "<unk>", *letters])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    model.post_processor = tokenizers.processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>"
    )


def make_pipeline() -> Any:
    torch.manual_seed(0)
    network = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4, caption_channels=8,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, sample_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407,
    )  # fmt: skip
    config = transformers.Gemma2Config(
        vocab_size=99, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    text = transformers.Gemma2Model(config)
    for part in (network, vae, text):
        part.eval()
    return diffusers.SanaPipeline(make_tokenizer(), text, vae, network, scheduler)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sana")
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def parts(folder: Path) -> Any:
    text = "outputs: {" + ", ".join(f"{part}: model.{part}" for part in PARTS) + "}"
    file = folder.parent / "parts.yaml"
    file.write_text(f"guidegraph: 1\nnodes:\n  model: {{use: checkpoint.load, with: {{path: {folder}}}}}\n{text}\n")
    return load_workflow(file, plugins=PLUGINS).run()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_twenty_steps_of_the_workflow_are_those_of_the_pipeline(pipeline: Any, folder: Path) -> None:
    expected = pipeline(
        ["a cat", "two dogs"], negative_prompt=["", ""], num_inference_steps=20, guidance_scale=4.5, height=32,
        width=32, latents=gaussian(seed=3, shape=LATENT, batch=2), output_type="latent", use_resolution_binning=False,
    ).images  # fmt: skip
    params = {"prompt": ["a cat", "two dogs"], "steps": 20, "seed": 3, "batch": 2, "shape": LATENT}
    result = load_workflow(WORKFLOW, plugins=PLUGINS).run(checkpoint=folder, **params)
    difference_bounds.relative(result["latent"], expected, 1e-3, "latents after 20 steps")
    picture = pipeline.vae.decode(expected / 0.41407).sample.detach()
    torch.testing.assert_close(result["image"], picture.clamp(-1, 1), rtol=0, atol=2e-3)


def test_both_guided_predictions_are_one_call_of_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = diffusers.SanaTransformer2DModel.forward, []

    def count(network: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(hidden_states))
        return forward(network, hidden_states, *args, **kwargs)

    monkeypatch.setattr(diffusers.SanaTransformer2DModel, "forward", count)
    load_workflow(WORKFLOW, plugins=PLUGINS).run(checkpoint=folder, prompt="a cat", steps=3, shape=LATENT)
    assert sizes == [2, 2, 2]


def test_the_autoencoder_and_the_texts_are_those_of_the_pipeline(pipeline: Any, parts: Any) -> None:
    image = random(1, 3, 8, 8)
    expected = pipeline.vae.encode(image).latent * 0.41407
    torch.testing.assert_close(parts["autoencoder"].encode(image), expected, rtol=0, atol=1e-5)
    condition = parts["text"](["a", ""])
    expected = pipeline.encode_prompt("", False, device="cpu")
    torch.testing.assert_close(condition.tokens[1:], expected[0])
    assert condition.mask.sum(1).tolist()[1] == expected[1].sum()
    assert condition.tokens.shape == (2, 300, 8)
    assert parts["schedule"].shift == 3.0


def test_rules_act_at_the_blocks_and_the_denoiser_stays(parts: Any) -> None:
    denoiser, x, t = parts["denoiser"], random(2, 4, 6, 4), torch.tensor([300.0, 300.0])
    condition = Condition(tokens=random(2, 5, 8))
    plain = denoiser(x, t, condition).value
    assert [site.name for site in denoiser.sites()][:4] == [
        "input.block.0", "skip.block.0", "feature.block.0", "input.block.1",
    ]  # fmt: skip
    identity = denoiser.with_rules(dict.fromkeys(select_sites(denoiser, ["input", "feature"]), lambda h: h))
    torch.testing.assert_close(identity(x, t, condition).value, plain)
    left_out = denoiser.with_rules({select_sites(denoiser, "skip.block.1")[0]: lambda h, skipped: (0 * h, skipped)})
    prediction, captured = left_out.captured(x, t, condition, denoiser.sites())
    by_name = {site.name: value for site, value in captured.items()}
    torch.testing.assert_close(by_name["feature.block.1"], by_name["feature.block.0"])
    assert by_name["input.block.1"].shape == (2, 8, 6, 4)
    assert not torch.allclose(prediction.value, plain)
    assert torch.equal(denoiser(x, t, condition).value, plain)
    with pytest.raises(ValueError, match="has a rule already"):
        left_out.with_rules({select_sites(denoiser, "skip.block.1")[0]: lambda h, skipped: (h, skipped)})


def test_a_low_rank_change_that_was_trained_here_fits(parts: Any, tmp_path: Path) -> None:
    changed: Any = new_lora(parts["denoiser"], rank=2, targets=["*.attn1.to_q"])
    for name, parameter in changed.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=5, generator=torch.Generator().manual_seed(1))
    save_lora(changed, path=tmp_path / "change.safetensors", layout="peft")
    applied = apply_lora(parts["denoiser"], path=tmp_path / "change.safetensors").denoiser
    inputs = random(*LATENT)[None], torch.tensor([500.0]), parts["text"](["a cat"])
    before, expected, actual = (each(*inputs).value for each in (parts["denoiser"], changed, applied))
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_transformer_alone_is_a_folder_and_wrong_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "alone.yaml"
    text = "guidegraph: 1\nnodes:\n  m: {{use: checkpoint.load, with: {{path: {}, {}}}}}\noutputs: {{d: m.denoiser}}\n"
    file.write_text(text.format(folder / "transformer", "prediction: flow"))
    assert load_workflow(file, plugins=PLUGINS).run()["d"].kind == "flow"
    for setting, reason in {"scale: 2": "has no use for scale", "prediction: eps": "which predicts a flow"}.items():
        file.write_text(text.format(folder, setting))
        with pytest.raises(NodeError, match=f"'Sana' of guidegraph_sana failed to open .*{reason}"):
            load_workflow(file, plugins=PLUGINS).run()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text((folder / "transformer" / "config.json").read_text())
    file.write_text(text.format(tmp_path / "broken", "prediction: auto"))
    with pytest.raises(NodeError, match=r"holds no diffusion_pytorch_model.safetensors"):
        load_workflow(file, plugins=PLUGINS).run()
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "SanaPipeline"


def test_a_bundle_of_a_fixed_prompt_draws_the_same(folder: Path, tmp_path: Path) -> None:
    text = WORKFLOW.read_text().replace("in: {embedder: model.text, prompt: params.prompt}", FIXED.format("a cat"))
    text = text.replace("in: {embedder: model.text, prompt: params.negative}", FIXED.format(""))
    file = tmp_path / "fixed.yaml"
    file.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("  prompt:", "  negative: {def")))
    )
    settings = {"checkpoint": folder, "steps": 3, "shape": "[4, 6, 4]"}
    options = [item for name, value in settings.items() for item in ("--set", f"{name}={value}")]
    command = ["export", file, "--plugin", *PLUGINS, *options, "-o", tmp_path / "bundle"]
    done = process(command, tmp_path, env={"PYTHONPATH": str(Path(guidegraph_sana.__file__).parents[1])})
    assert done.returncode == 0, done.stdout + done.stderr
    bundle, workflow = Bundle(tmp_path / "bundle"), load_workflow(file, plugins=PLUGINS)
    for more in ({"seed": 3}, {"seed": 5, "batch": 2}):
        expected = workflow.run(checkpoint=folder, steps=3, shape=LATENT, **more)["image"].numpy()
        assert np.abs(bundle.run(**more)["image"] - expected).max() <= 2 / 255


def test_the_package_is_small() -> None:
    modules = Path(guidegraph_sana.__file__).parent.glob("*.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules) <= 250

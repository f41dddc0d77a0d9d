"""Qwen-Image with tiny random weights, saved by diffusers: against its own pipeline, with hooks, and as a bundle."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tokenizers
import torch
import transformers

import guidegraph_qwen_image
from guidegraph import Condition, NodeError, Prediction, load_workflow, select_sites
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph_qwen_image import keep_norm, pack, unpack
from guidegraph_qwen_image.attention import Positions
from guidegraph_runtime import Bundle
from plugins.families.tests import difference_bounds
from tests.commands.command import process

WORKFLOW = Path(guidegraph_qwen_image.__file__).with_name("text_to_image.yaml")
PLUGINS = ("guidegraph_qwen_image",)
LATENT = [4, 8, 6]
FIXED = "in: {{embedder: model.text}}, with: {{prompt: {}}}"
PARTS = ("denoiser", "text", "autoencoder", "schedule")


def make_tokenizer() -> Any:
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = {token: i for i, token in enumerate(["<pad>", "<unk>", *letters])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")


def make_text_encoder() -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 98, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048, "bos_token_id": 0,
            "eos_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        },
        vision_config={
            "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16,
            "window_size": 28, "fullatt_block_indexes": [0],
        },
        image_token_id=97, video_token_id=97, vision_start_token_id=97, vision_end_token_id=97,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def make_pipeline() -> Any:
    torch.manual_seed(0)
    network = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, attention_head_dim=12, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    for layer in (network.txt_in, network.proj_out):  # so that texts matter
        layer.weight.data *= 8
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.1, 0.4, -0.2], latents_std=[2.8, 1.4, 2.3, 1.1],
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
        shift_terminal=0.02,
    )  # fmt: skip
    text = make_text_encoder()
    for part in (network, vae, text):
        part.eval().requires_grad_(False)
    return diffusers.QwenImagePipeline(scheduler, vae, text, make_tokenizer(), network)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen_image")
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


def statistics(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.tensor(values).reshape(1, -1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def test_twenty_steps_of_the_workflow_are_those_of_the_pipeline(pipeline: Any, folder: Path) -> None:
    factor = pipeline.vae_scale_factor
    prompts: Any = {"prompt": ["a cat", "two dogs"], "negative_prompt": [" ", "blurred"]}
    packed = pipeline(
        **prompts, num_inference_steps=20, true_cfg_scale=4.0, height=8 * factor, width=6 * factor,
        latents=pack(gaussian(seed=3, shape=LATENT, batch=2)), output_type="latent",
    ).images  # fmt: skip
    params = {"prompt": prompts["prompt"], "negative": prompts["negative_prompt"], "steps": 20, "seed": 3, "batch": 2}
    result = load_workflow(WORKFLOW, plugins=PLUGINS).run(checkpoint=folder, shape=LATENT, **params)
    expected = pipeline._unpack_latents(packed, 8 * factor, 6 * factor, factor)[:, :, 0]
    difference_bounds.relative(result["latent"], expected, 1e-4, "latents after 20 steps")
    mean, std = statistics(pipeline.vae)
    picture = pipeline.vae.decode((expected * std + mean)[:, :, None]).sample[:, :, 0]
    torch.testing.assert_close(result["image"], picture.clamp(-1, 1), rtol=0, atol=2e-3)


def test_both_guided_predictions_are_one_call_of_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = diffusers.QwenImageTransformer2DModel.forward, []

    def count(network: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(hidden_states))
        return forward(network, hidden_states, *args, **kwargs)

    monkeypatch.setattr(diffusers.QwenImageTransformer2DModel, "forward", count)
    prompts = {"prompt": "a cat", "negative": "a dog"}
    load_workflow(WORKFLOW, plugins=PLUGINS).run(checkpoint=folder, steps=3, shape=LATENT, **prompts)
    assert sizes == [2, 2, 2]


def test_the_autoencoder_and_the_texts_are_those_of_the_pipeline(pipeline: Any, parts: Any) -> None:
    image, (mean, std) = random(2, 3, 8, 12), statistics(pipeline.vae)
    expected = (pipeline.vae.encode(image[:, :, None]).latent_dist.mode()[:, :, 0] - mean) / std
    torch.testing.assert_close(parts["autoencoder"].encode(image), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 4; found shape"):
        parts["autoencoder"].encode(random(1, 3, 8, 10))
    condition = parts["text"](["a cat", "two dogs"])
    tokens, mask = pipeline.encode_prompt(["a cat", "two dogs"], device="cpu")
    torch.testing.assert_close(condition.tokens, tokens)
    assert torch.equal(condition.mask, mask.bool())
    assert condition.mask.logical_not().sum() == 3
    assert parts["text"](["a cat", "a dog"]).mask is None


@pytest.mark.parametrize("size", [(4, 3), (3, 7), (64, 64)])
def test_the_positions_are_those_of_diffusers(size: tuple[int, int]) -> None:
    widths = [16, 56, 56]
    kept = diffusers.models.transformers.transformer_qwenimage.QwenEmbedRope(10000, widths, scale_rope=True)
    sizes, options = [[(1, *size)]], {"max_txt_seq_len": 20, "device": torch.device("cpu")}
    for angles, turns in zip(Positions(widths)(sizes, **options), kept(sizes, **options), strict=True):
        torch.testing.assert_close(torch.polar(torch.ones_like(angles), angles), turns)


def test_padding_does_not_change_the_prediction(parts: Any) -> None:
    x, t, tokens = random(1, *LATENT), torch.tensor([300.0]), random(1, 5, 16)
    padded = Condition(tokens=torch.cat([tokens, random(1, 3, 16)], 1), mask=torch.arange(8)[None] < 5)
    plain = parts["denoiser"](x, t, Condition(tokens=tokens)).value
    torch.testing.assert_close(parts["denoiser"](x, t, padded).value, plain)


def test_rules_act_at_the_blocks_and_the_denoiser_stays(parts: Any) -> None:
    denoiser, x, t = parts["denoiser"], random(2, *LATENT), torch.tensor([300.0, 300.0])
    condition = Condition(tokens=random(2, 5, 16))
    plain = denoiser(x, t, condition).value
    assert [site.name for site in denoiser.sites()][:4] == [
        "input.block.0", "skip.block.0", "feature.block.0", "input.block.1",
    ]  # fmt: skip
    identity = denoiser.with_rules(dict.fromkeys(select_sites(denoiser, ["input", "feature"]), lambda h: h))
    torch.testing.assert_close(identity(x, t, condition).value, plain)
    weaker = denoiser.with_rules({select_sites(denoiser, "feature.block.0")[0]: lambda h: h / 2})
    prediction, captured = weaker.captured(x, t, condition, denoiser.sites())
    by_name = {site.name: value for site, value in captured.items()}
    torch.testing.assert_close(by_name["input.block.1"], by_name["feature.block.0"])
    assert by_name["input.block.1"].shape == (2, 24, 4, 3)
    assert not torch.allclose(prediction.value, plain)
    assert torch.equal(denoiser(x, t, condition).value, plain)


def test_a_block_left_out_leaves_out_both_of_its_streams(pipeline: Any, parts: Any) -> None:
    denoiser, x, t, tokens = parts["denoiser"], random(2, *LATENT), torch.tensor([300.0, 300.0]), random(2, 5, 16)
    shapes = []

    def leave_out(change: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append(tuple(change.shape))
        return 0 * change, before

    left_out = denoiser.with_rules({select_sites(denoiser, "skip.block.1")[0]: leave_out})
    shorter = copy.deepcopy(pipeline.transformer)
    del shorter.transformer_blocks[1]
    rows = shorter(
        pack(x), encoder_hidden_states=tokens, timestep=t / 1000, img_shapes=[[(1, 4, 3)]] * 2, return_dict=False
    )[0]
    torch.testing.assert_close(left_out(x, t, Condition(tokens=tokens)).value, unpack(rows, 4, 3))
    assert shapes == [(2, 24, 4, 3), (2, 24, 5, 1)]  # the map of patches, and the tokens


def test_the_norm_of_each_token_is_kept() -> None:
    x = random(2, *LATENT)
    rows = diffusers.QwenImagePipeline._pack_latents(x, 2, *LATENT)
    assert torch.equal(pack(x), rows)
    assert torch.equal(unpack(rows, 4, 3), x)
    guided, cond = Prediction(3 * x, "flow"), Prediction(x.flip(0), "flow")
    kept = pack(keep_norm(guided, cond).value)
    torch.testing.assert_close(kept.norm(dim=-1), rows.flip(0).norm(dim=-1))
    torch.testing.assert_close(kept / kept.norm(dim=-1, keepdim=True), rows / rows.norm(dim=-1, keepdim=True))
    with pytest.raises(ValueError, match="of the kinds flow and eps"):
        keep_norm(guided, Prediction(x, "eps"))


def test_a_transformer_alone_is_a_folder_and_wrong_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "alone.yaml"
    text = "guidegraph: 1\nnodes:\n  m: {{use: checkpoint.load, with: {{path: {}, {}}}}}\noutputs: {{d: m.denoiser}}\n"
    file.write_text(text.format(folder / "transformer", "prediction: flow"))
    assert load_workflow(file, plugins=PLUGINS).run()["d"].kind == "flow"
    for setting, reason in {"scale: 2": "has no use for scale", "prediction: eps": "which predicts a flow"}.items():
        file.write_text(text.format(folder, setting))
        with pytest.raises(NodeError, match=f"'Qwen-Image' of guidegraph_qwen_image failed to open .*{reason}"):
            load_workflow(file, plugins=PLUGINS).run()
    edits = shutil.copytree(folder / "transformer", tmp_path / "edits")
    config = json.loads((edits / "config.json").read_text())
    (edits / "config.json").write_text(json.dumps(config | {"zero_cond_t": True}))
    file.write_text(text.format(edits, "prediction: auto"))
    with pytest.raises(NodeError, match="has zero_cond_t: only Qwen-Image"):
        load_workflow(file, plugins=PLUGINS).run()
    (edits / "config.json").write_text(json.dumps(config))
    (edits / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(NodeError, match=r"holds no diffusion_pytorch_model.safetensors"):
        load_workflow(file, plugins=PLUGINS).run()


def test_a_bundle_of_a_fixed_prompt_draws_the_same(folder: Path, tmp_path: Path) -> None:
    text = WORKFLOW.read_text().replace("in: {embedder: model.text, prompt: params.prompt}", FIXED.format("a cat"))
    text = text.replace("in: {embedder: model.text, prompt: params.negative}", FIXED.format("' '"))
    file = tmp_path / "fixed.yaml"
    file.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("  prompt:", "  negative: {def")))
    )
    settings = {"checkpoint": folder, "steps": 3, "shape": "[4, 8, 6]"}
    options = [item for name, value in settings.items() for item in ("--set", f"{name}={value}")]
    command = ["export", file, "--plugin", *PLUGINS, *options, "-o", tmp_path / "bundle"]
    done = process(command, tmp_path, env={"PYTHONPATH": str(Path(guidegraph_qwen_image.__file__).parents[1])})
    assert done.returncode == 0, done.stdout + done.stderr
    bundle, workflow = Bundle(tmp_path / "bundle"), load_workflow(file, plugins=PLUGINS)
    for batch in (1, 2):
        expected = workflow.run(checkpoint=folder, steps=3, shape=LATENT, seed=3, batch=batch)["image"]
        drawn = torch.from_numpy(bundle.run(seed=3, batch=batch)["image"])
        difference_bounds.largest(drawn, expected, 1e-4, f"a bundle's pictures, {batch}")  # 2/255 would hide the prompt


def test_the_package_is_small() -> None:
    modules = Path(guidegraph_qwen_image.__file__).parent.glob("*.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules) <= 250

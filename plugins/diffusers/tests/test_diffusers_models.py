"""Networks of diffusers as values: their inputs, their outputs, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from guidegraph import Autoencoder, Condition, Denoiser, LabelEmbedder, Schedule, TextEmbedder
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.conditioning.condition import null_condition
from guidegraph.nodes.conditioning.label import embed_label
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.training.lora import apply_lora, new_lora, save_lora
from guidegraph_diffusers.autoencoders import load_autoencoder
from guidegraph_diffusers.denoisers import class_labels, load_denoiser
from guidegraph_diffusers.schedules import read_schedule
from guidegraph_diffusers.text import load_text
from tests.tolerance import assert_same_up_to_rounding, terms_of

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from tests.plugins import tiny_diffusers as tiny  # noqa: E402

T = torch.tensor([10.0, 700.0])
TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[True] * 5, [True, True, False, False, False]])
VECTOR = torch.randn(2, 16, generator=torch.Generator().manual_seed(2))


def sample(channels: int = 4, rows: int = 8, columns: int = 8) -> torch.Tensor:
    return torch.randn(2, channels, rows, columns, generator=torch.Generator().manual_seed(3))


def linear() -> Schedule:
    return schedules.linear()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder


def one_hot(classes: int, *labels: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


@torch.no_grad()
def direct(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    actual: torch.Tensor = model(*args, **kwargs).sample
    return actual


def unet_with_sizes() -> Any:
    sizes = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 10 + 6 * 4}
    return tiny.unet(addition_embed_type="text_time", **sizes)


Call = Callable[[Any, torch.Tensor], torch.Tensor]
SIZES = torch.tensor([[1016.0, 1024, 0, 8, 512, 768]]).repeat(2, 1)
EPS: dict[str, tuple[Callable[[], Any], Condition, Call]] = {
    "UNet2DModel": (tiny.plain_unet, Condition(), lambda m, x: direct(m, x, T)),
    "UNet2DModel with classes": (
        lambda: tiny.plain_unet(num_class_embeds=5),
        Condition(vector=one_hot(5, 4, 0)),
        lambda m, x: direct(m, x, T, class_labels=torch.tensor([4, 0])),
    ),
    "UNet2DConditionModel": (
        tiny.unet,
        Condition(tokens=TOKENS, mask=MASK),
        lambda m, x: direct(m, x, T, TOKENS, encoder_attention_mask=MASK),
    ),
    "UNet2DConditionModel of SDXL": (
        unet_with_sizes,
        Condition(tokens=TOKENS, vector=torch.cat([VECTOR[:, :10], SIZES], dim=1)),
        lambda m, x: direct(m, x, T, TOKENS, added_cond_kwargs={"text_embeds": VECTOR[:, :10], "time_ids": SIZES}),
    ),
    "UNet2DConditionModel of SDXL without sizes": (
        unet_with_sizes,
        Condition(tokens=TOKENS, vector=VECTOR[:, :10]),
        lambda m, x: direct(
            m,
            x,
            T,
            TOKENS,
            added_cond_kwargs={
                "text_embeds": VECTOR[:, :10],
                "time_ids": x.new_tensor([[8 * x.shape[2], 8 * x.shape[3], 0, 0, 8 * x.shape[2], 8 * x.shape[3]]] * 2),
            },
        ),
    ),
    "UNet2DConditionModel with classes": (
        lambda: tiny.unet(num_class_embeds=7),
        Condition(tokens=TOKENS, vector=one_hot(7, 6, 1)),
        lambda m, x: direct(m, x, T, TOKENS, class_labels=torch.tensor([6, 1])),
    ),
    "PixArtTransformer2DModel": (
        tiny.pixart,
        Condition(tokens=TOKENS[..., :10], mask=MASK),
        lambda m, x: direct(
            m, x, TOKENS[..., :10], T, {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=MASK
        ),
    ),
}


@pytest.mark.parametrize("name", EPS)
def test_a_model_is_called_as_in_diffusers(tmp_path: Path, name: str) -> None:
    make, condition, call = EPS[name]
    model = make()
    denoiser = load_denoiser(linear(), path=save(model, tmp_path), kind="eps")
    assert isinstance(denoiser, Denoiser)
    actual, expected = denoiser(sample(), T, condition), call(model, sample())
    assert actual.kind == "eps"
    assert_same_up_to_rounding(actual.value, expected[:, :4], terms_of(model))
    if expected.shape[1] == 8:
        assert actual.variance is not None
        assert_same_up_to_rounding(actual.variance, expected[:, 4:], terms_of(model))


def test_a_dit_has_classes_a_null_class_and_a_learned_variance(tmp_path: Path) -> None:
    model = tiny.dit()
    path = save(model, tmp_path)
    denoiser, labels = load_denoiser(linear(), path=path), class_labels(path=path)
    assert isinstance(labels, LabelEmbedder)
    assert labels.classes == 1000
    condition = embed_label(labels, torch.tensor([7, 1000]))
    actual = denoiser(sample(), T, condition)
    expected = direct(model, sample(), T, torch.tensor([7, 1000]))
    assert_same_up_to_rounding(actual.value, expected[:, :4], terms_of(model))
    assert actual.variance is not None
    assert_same_up_to_rounding(actual.variance, expected[:, 4:], terms_of(model))
    for null in (embed_label(labels), null_condition(condition)):
        value = denoiser(sample(), T, Condition(vector=null.vector.expand(2, -1))).value  # type: ignore[union-attr]
        assert_same_up_to_rounding(value[1], expected[1, :4], terms_of(model))


def test_early_dit_folders_load(tmp_path: Path) -> None:
    path = save(tiny.dit(), tmp_path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "Transformer2DModel"}))
    assert class_labels(path=path).classes == 1000
    assert load_denoiser(linear(), path=path)(sample(), T, Condition(vector=one_hot(1000, 1, 2))).kind == "eps"


def flow_call(name: str, model: Any, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    if name == "sd3":
        return direct(model, x, TOKENS.repeat(1, 1, 2), VECTOR, s * 1000)
    pipeline = diffusers.FluxPipeline
    places = pipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32)
    packed = direct(
        model,
        pipeline._pack_latents(x, 2, 4, 8, 12),
        TOKENS,
        VECTOR[:, :8],
        s,
        places,
        torch.zeros(5, 3),
        torch.tensor([2.0, 2.0]),
    )
    latent: torch.Tensor = pipeline._unpack_latents(packed, 8, 12, 1)
    return latent


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_flow_gives_x0_at_the_level_of_the_schedule(tmp_path: Path, name: str) -> None:
    """x0 = x − s u at x = (1 − s) x0 + s ε, and at s = 1, where ᾱ is 0, too."""
    model = tiny.sd3() if name == "sd3" else tiny.flux(True)
    diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(str(tmp_path / "scheduler"))
    save(model, tmp_path / "transformer")
    schedule = read_schedule(path=tmp_path)
    denoiser = load_denoiser(schedule, path=tmp_path, guidance=2.0)
    tokens, vector = (TOKENS.repeat(1, 1, 2), VECTOR) if name == "sd3" else (TOKENS, VECTOR[:, :8])
    t = torch.tensor([300.0, 999.0])
    alpha, sigma = schedule.alpha_sigma(t)
    x = sample(columns=12)
    flow = x / (alpha + sigma).reshape(-1, 1, 1, 1)
    s = sigma / (alpha + sigma)
    assert s[1] == 1
    actual = denoiser(x, t, Condition(tokens=tokens, vector=vector))
    expected = flow - s.reshape(-1, 1, 1, 1) * flow_call(name, model, flow, s)
    assert actual.kind == "x0"
    torch.testing.assert_close(actual.value, expected, atol=1e-5, rtol=1e-5)


def test_a_spatial_condition_is_concatenated(tmp_path: Path) -> None:
    model = tiny.unet(in_channels=9)
    denoiser = load_denoiser(linear(), path=save(model, tmp_path), kind="v")
    actual = denoiser(sample(), T, Condition(tokens=TOKENS, spatial=sample(5)))
    expected = direct(model, torch.cat([sample(), sample(5)], dim=1), T, TOKENS)
    assert actual.kind == "v"
    assert_same_up_to_rounding(actual.value, expected, terms_of(model))


@pytest.mark.parametrize(("prediction_type", "kind"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_the_prediction_of_a_unet_is_read_from_the_scheduler(tmp_path: Path, prediction_type: str, kind: str) -> None:
    diffusers.DDIMScheduler(prediction_type=prediction_type).save_pretrained(str(tmp_path / "scheduler"))
    save(tiny.unet(), tmp_path / "unet")
    denoiser = load_denoiser(read_schedule(path=tmp_path), path=tmp_path)
    assert denoiser(sample(), T, Condition(tokens=TOKENS)).kind == kind


def test_a_run_in_bfloat16_computes_in_it_and_keeps_x(tmp_path: Path) -> None:
    path = save(tiny.unet(), tmp_path)
    with use_device("cpu", "bfloat16"):
        denoiser: Any = load_denoiser(linear(), path=path, kind="eps")
    assert {p.dtype for p in denoiser.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert denoiser(sample(), T, Condition(tokens=TOKENS)).value.dtype == torch.float32


CODERS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "AutoencoderKL": (
        lambda: tiny.vae(shift_factor=0.2, scaling_factor=0.5),
        lambda m, image: (m.encode(image).latent_dist.mode() - 0.2) * 0.5,
    ),
    "VQModel": (
        lambda: diffusers.VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            num_vq_embeddings=16,
            scaling_factor=0.3,
        ),
        lambda m, image: m.encode(image).latents * 0.3,
    ),
    "AutoencoderTiny": (
        lambda: diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        lambda m, image: m.encode(image).latents,
    ),
    "AutoencoderDC": (
        lambda: diffusers.AutoencoderDC(
            latent_channels=4,
            encoder_block_types=("ResBlock", "ResBlock"),
            decoder_block_types=("ResBlock", "ResBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            scaling_factor=0.4,
        ),
        lambda m, image: m.encode(image).latent * 0.4,
    ),
}


@pytest.mark.parametrize("name", CODERS)
def test_an_autoencoder_owns_its_scale(tmp_path: Path, name: str) -> None:
    make, encode = CODERS[name]
    model = make().eval()
    autoencoder = load_autoencoder(path=save(model, tmp_path / "vae").parent)
    assert isinstance(autoencoder, Autoencoder)
    image = sample(3, 8, 12).clamp(-1, 1)
    with torch.no_grad():
        expected = encode(model, image)
        latent = autoencoder.encode(image)
        assert_same_up_to_rounding(latent, expected, terms_of(model))
        scale, shift = model.config.get("scaling_factor") or 1.0, model.config.get("shift_factor") or 0.0
        picture = model.decode(expected / scale + shift).sample
        assert_same_up_to_rounding(autoencoder.decode(latent), picture, terms_of(model))
    assert latent.shape == (2, expected.shape[1], 4, 6)
    with pytest.raises(ValueError, match=r"whose sides are multiples of 2; found shape \(2, 3, 8, 11\)"):
        autoencoder.encode(image[..., :11])


def test_an_autoencoder_with_force_upcast_computes_in_float32(tmp_path: Path) -> None:
    path = save(tiny.vae(force_upcast=True), tmp_path)
    for dtype, expected in (("float16", torch.float32), ("bfloat16", torch.bfloat16)):
        with use_device("cpu", dtype):
            autoencoder: Any = load_autoencoder(path=path)
        assert {p.dtype for p in autoencoder.parameters()} == {expected}


def test_sd3_without_t5_and_the_length_of_t5(tmp_path: Path) -> None:
    pipeline = tiny.sd3_pipeline()
    path = tiny.save(pipeline, tmp_path)
    text = load_text(path=path, length=20)
    assert isinstance(text, TextEmbedder)
    actual = encode_text(text, ["a tiger", ""])
    assert actual.tokens is not None
    assert actual.tokens.shape == (2, 16 + 20, 24)
    index = json.loads((path / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (path / "model_index.json").write_text(json.dumps(index))
    fewer = encode_text(load_text(path=path, length=20), ["a tiger", ""])
    assert fewer.tokens is not None
    torch.testing.assert_close(fewer.tokens[:, :16], actual.tokens[:, :16])
    assert not bool(fewer.tokens[:, 16:].any())
    torch.testing.assert_close(fewer.vector, actual.vector)


def test_sdxls_vector_ends_in_the_sizes_and_its_null_is_zeros(tmp_path: Path) -> None:
    path = tiny.save(tiny.sdxl_pipeline(), tmp_path)
    condition = load_text(path=path, size=(512, 768), crop=(0, 8), original_size=(1016, 1024))(["a tiger", ""])
    assert condition.tokens is not None
    assert condition.vector is not None
    assert condition.vector[:, -6:].tolist() == [[1016, 1024, 0, 8, 512, 768]] * 2
    assert bool(condition.tokens[0].any())
    assert not bool(condition.tokens[1].any())
    assert not bool(condition.vector[1, :-6].any())
    with pytest.raises(ValueError, match="original_size and crop need size"):
        load_text(path=path, crop=(0, 8))


def test_unsuitable_folders_are_refused_with_one_error(tmp_path: Path) -> None:
    path = save(tiny.unet(), tmp_path / "unet")
    config, weights = path / "config.json", path / "diffusion_pytorch_model.safetensors"

    def expect_error(match: str, **settings: Any) -> None:
        with pytest.raises(ValueError, match=match):
            load_denoiser(linear(), **{"path": path, "kind": "eps"} | settings)

    expect_error("'.*nowhere' is not a folder", path=tmp_path / "nowhere")
    expect_error("holds no part 'prior' with a config.json; it has unet", path=tmp_path, part="prior")
    expect_error("nothing in '.*' says what this UNet2DConditionModel predicts", kind="auto")
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "conv_in.bias"} | {"odd": torch.ones(1)}, weights)
    expect_error(r"do not fit its config.json \(1 missing: conv_in.bias; 1 unexpected: odd\)")
    save_file(tensors | {"conv_in.bias": torch.ones(3)}, weights)
    expect_error("holds no UNet2DConditionModel that diffusers can load: .*conv_in.bias")
    weights.write_bytes(weights.read_bytes()[:1000])
    expect_error("holds no UNet2DConditionModel that diffusers can load")
    weights.rename(path / "diffusion_pytorch_model.fp16.safetensors")
    expect_error("holds no diffusion_pytorch_model.safetensors; its weights are .*fp16.safetensors: set `variant`")
    (path / "diffusion_pytorch_model.fp16.safetensors").unlink()
    torch.save(tensors, path / "diffusion_pytorch_model.bin")
    expect_error("its weights are diffusion_pytorch_model.bin: save it again with diffusers' save_pretrained")
    (path / "diffusion_pytorch_model.bin").unlink()
    expect_error("its weights are missing: the folder is not complete")
    original = json.loads(config.read_text())
    for change, match in (
        ({"_class_name": "AutoencoderKL"}, "of class AutoencoderKL, which this adapter does not know; it knows UNet2D"),
        ({"_class_name": None}, "names no class"),
    ):
        config.write_text(json.dumps(original | change))
        expect_error(match)
    config.unlink()
    expect_error("holds no part 'transformer' or 'unet' with a config.json; it has nothing")


def test_a_variant_is_loaded_by_its_name(tmp_path: Path) -> None:
    tiny.unet().save_pretrained(str(tmp_path), variant="fp16")
    assert isinstance(load_denoiser(linear(), path=tmp_path, kind="eps", variant="fp16"), Denoiser)


@pytest.mark.parametrize(
    "config", [{"time_cond_proj_dim": 8}, {"class_embed_type": "timestep"}], ids=lambda c: next(iter(c))
)
def test_a_unet_with_unsupported_inputs_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    path = save(tiny.unet(**config), tmp_path)
    with pytest.raises(ValueError, match=f"with {next(iter(config))} .* is not supported"):
        load_denoiser(linear(), path=path, kind="eps")


@pytest.mark.parametrize(
    ("make", "x", "condition", "match"),
    [
        (tiny.unet, sample(3), Condition(tokens=TOKENS), "takes 4 channels; found 3 of x and 0 of a spatial"),
        (tiny.unet, sample(), Condition(tokens=TOKENS[..., :3]), "takes tokens of width 12, and got width 3"),
        (tiny.unet, sample(), Condition(), "takes tokens of width 12, and got none"),
        (tiny.plain_unet, sample(columns=9), Condition(), r"sides are multiples of 2; found shape \(2, 4, 8, 9\)"),
        (tiny.dit, sample(columns=12), Condition(), "takes square x whose sides are multiples of 2"),
        (tiny.dit, sample(), Condition(vector=VECTOR), "takes a class as a vector of width 1000, and got width 16"),
        (lambda: tiny.plain_unet(num_class_embeds=5), sample(), Condition(vector=torch.zeros(2, 5)), "no null class"),
        (tiny.sd3, sample(), Condition(tokens=TOKENS.repeat(1, 1, 2), mask=MASK), "no use for a mask"),
        (tiny.sd3, sample(), Condition(tokens=TOKENS.repeat(1, 1, 2)), "pooled vector of width 16, and got none"),
        (
            unet_with_sizes,
            sample(),
            Condition(tokens=TOKENS, vector=VECTOR[:, :9]),
            r"of width 10, or with the six numbers of sizes, 16",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_named(
    tmp_path: Path, make: Callable[[], Any], x: torch.Tensor, condition: Condition, match: str
) -> None:
    model = make()
    kind: Any = "flow" if type(model).__name__.startswith("SD3") else "eps"
    denoiser = load_denoiser(linear(), path=save(model, tmp_path), kind=kind)
    with pytest.raises(ValueError, match=match):
        denoiser(x, T, condition)


def test_problems_of_a_pipelines_text_encoders_are_named(tmp_path: Path) -> None:
    path = tiny.save(tiny.sd_pipeline(), tmp_path)
    file = path / "model_index.json"
    index = json.loads(file.read_text())

    def expect_error(match: str, change: dict[str, Any], **settings: Any) -> None:
        file.write_text(json.dumps(index | change))
        with pytest.raises(ValueError, match=match):
            load_text(path=path, **settings)

    expect_error(
        "of class KolorsPipeline, which this adapter does not know; it knows", {"_class_name": "KolorsPipeline"}
    )
    expect_error("names no 'text_encoder', which the pipeline needs", {"text_encoder": None})
    expect_error("is of evil.CLIPTextModel; known of transformers are", {"text_encoder": ["evil", "CLIPTextModel"]})
    expect_error("names no text encoder", {"text_encoder": [None, None]})
    expect_error("has no T5, so it takes no `length`", {}, length=12)
    weights = path / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if "layers.0.mlp.fc1" not in k}, weights, metadata={"format": "pt"})
    expect_error(r"do not fit its config.json \(2 missing: ", {})
    weights.rename(path / "text_encoder" / "pytorch_model.bin")
    expect_error("holds no model.safetensors; its weights are pytorch_model.bin: save it again", {})
    save_file(tensors, weights, metadata={"format": "pt"})
    (path / "text_encoder" / "pytorch_model.bin").unlink()
    (path / "tokenizer").rename(path / "gone")
    expect_error("holds no part 'tokenizer'", {})
    (path / "tokenizer").mkdir()
    expect_error("the tokenizer in '.*tokenizer' knows no words", {})
    file.unlink()
    with pytest.raises(ValueError, match=r"holds no model_index.json"):
        load_text(path=path)


def test_the_plugin_loads_with_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys; from guidegraph.plugins.manager import PluginManager as M; "
        "m = M(entry_points=False); "
        "s = next(s for s in m.statuses if s.name == 'diffusers'); assert s.ok, s.reason; "
        "print(len(s.nodes), sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "8 []"


def test_tiling_is_enabled_if_the_autoencoder_supports_it(tmp_path: Path) -> None:
    autoencoder: Any = load_autoencoder(path=save(tiny.vae(), tmp_path / "kl"), tiling=True)
    assert autoencoder.network.use_tiling
    path = save(CODERS["VQModel"][0](), tmp_path / "vq")
    with pytest.raises(ValueError, match="a VQModel has no tiling: leave `tiling` out"):
        load_autoencoder(path=path, tiling=True)


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_a_low_rank_change_is_saved_and_applied(tmp_path: Path, layout: Literal["peft", "kohya"]) -> None:
    denoiser = load_denoiser(linear(), path=save(tiny.unet(), tmp_path / "unet"), kind="eps")
    changed = new_lora(denoiser, rank=2, targets=["*.to_q", "*.ff.net.2"])
    assert isinstance(changed, torch.nn.Module)
    for name, parameter in changed.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    file = tmp_path / "change.safetensors"
    save_lora(changed, path=file, layout=layout)
    assert all(name.startswith(("unet.", "lora_unet_")) for name in load_file(file))
    applied = apply_lora(denoiser, path=file).denoiser
    before, expected, actual = (
        each(sample(), T, Condition(tokens=TOKENS)).value for each in (denoiser, changed, applied)
    )
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

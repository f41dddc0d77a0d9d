"""Every released configuration of latent diffusion, by name: heads, scale, schedule; outputs of small models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.types import Condition
from guidegraph_families.compvis.single_file import load_compvis
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.layers import AttentionBlock, ReleasedAttention
from plugins.families.tests.compvis import latent_configs, latent_files
from plugins.families.tests.compvis import latent_reference as reference
from plugins.families.tests.guided.guided_reference import weights_of
from plugins.families.tests.test_infer_unet import SD1, SD2, SDXL, tensors_of

MODELS, FIRST_STAGES = latent_configs.MODELS, latent_configs.FIRST_STAGES
PARTS = {
    "cin256": "label",
    "cin256-v2": "label",
    "text2img256": "text",
    "layout2img-openimages256": "text",
    "txt2img-1p4B": "text",
    "semantic_synthesis256": "semantic",
    "semantic_synthesis512": "semantic",
}
AUTOENCODER = "ldm.models.autoencoder.AutoencoderKL"


@cache
def on_meta(name: str) -> dict[str, Tensor]:
    """The tensors of a released file, without their values."""
    return latent_files.checkpoint_tensors(MODELS[name], "meta")


def load_on_meta(tensors: dict[str, Tensor], path: Path, **settings: Any) -> dict[str, Any]:
    with use_device("meta", "float32"):
        return load_compvis(tensors, path / "model.ckpt", LoadOptions(**settings))


def alphas_bar(model: dict[str, Any]) -> Tensor:
    """ᾱ of β that are squares of evenly spaced roots, as latent diffusion's `linear` has them."""
    roots = np.linspace(model["linear_start"] ** 0.5, model["linear_end"] ** 0.5, model["timesteps"])
    return torch.from_numpy(np.cumprod(1 - roots**2))


def scale_of(model: dict[str, Any]) -> float:
    """The scale of the latents: the buffer of the file where it was measured."""
    return 0.7 if model.get("scale_by_std") else float(model.get("scale_factor", 1.0))


def check_heads(network: nn.Module, params: dict[str, Any]) -> None:
    """Check that each attention layer has the heads of the configuration, and each GroupNorm 32 groups."""
    counts = []
    for name, layer in network.named_modules():
        if isinstance(layer, AttentionBlock | ReleasedAttention):
            width = layer.proj_out.in_channels if isinstance(layer, AttentionBlock) else layer.to_q.in_features
            assert layer.heads == reference.heads_at(params, width, up=name.startswith("output")), name
            counts.append(layer.heads)
        if isinstance(layer, nn.GroupNorm):
            assert layer.num_groups == 32
    assert counts


@pytest.mark.parametrize("name", MODELS)
def test_a_released_file_has_the_heads_scale_and_schedule_of_its_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph.nodes.derive.current_device", lambda: "cpu")
    model = MODELS[name]
    parts = load_on_meta(on_meta(name), tmp_path)
    denoiser = parts["denoiser"]
    check_heads(denoiser.network, model["unet_config"]["params"])
    assert denoiser.network.shape.kind == "eps"
    assert not denoiser.network.shape.new_attention_order
    assert parts["autoencoder"].scale == pytest.approx(scale_of(model))
    torch.testing.assert_close(parts["schedule"].alphas_bar, alphas_bar(model), rtol=1e-12, atol=0)
    extra = set(parts) - {"denoiser", "autoencoder", "schedule"}
    assert extra == ({PARTS[name]} if name in PARTS else set())


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_the_scale_of_a_released_first_stage_is_known_or_must_be_set(name: str, tmp_path: Path) -> None:
    tensors = latent_files.first_stage_tensors(FIRST_STAGES[name], "meta")
    if name == "kl-f8":
        with pytest.raises(
            ValueError, match=r"0\.18215 in Stable Diffusion 1 and 2, by 0\.13025 in SDXL.*Set scale on"
        ):
            load_on_meta(tensors, tmp_path)
    else:
        assert load_on_meta(tensors, tmp_path)["autoencoder"].scale == 1.0
    assert load_on_meta(tensors, tmp_path, scale=0.5)["autoencoder"].scale == 0.5
    latent_files.write_config(tmp_path, FIRST_STAGES[name], AUTOENCODER)
    stage = load_on_meta(tensors, tmp_path)["autoencoder"]
    assert stage.scale == 1.0
    dd = FIRST_STAGES[name]["ddconfig"]
    assert stage.config.factor == 2 ** (len(dd["ch_mult"]) - 1)
    assert stage.config.codes == FIRST_STAGES[name].get("n_embed", 0)


def test_a_release_is_identified_by_its_first_stage_too(tmp_path: Path) -> None:
    other = MODELS["celeba256"] | {"first_stage_config": {"params": FIRST_STAGES["kl-f4"]}}
    with pytest.raises(
        ValueError, match=r"none of its released shapes.*do not tell heads or head_channels, attention, scale"
    ):
        load_on_meta(latent_files.checkpoint_tensors(other, "meta"), tmp_path)


def save(folder: Path, model: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {name: value.double() for name, value in latent_files.checkpoint_tensors(model).items()}
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    return tensors


def part_of(tensors: dict[str, Tensor], prefix: str) -> reference.Weights:
    return weights_of({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})


def load(path: Path, **settings: Any) -> Any:
    """In float64, so that rounding hides nothing."""
    with use_device("cpu", "float64"):
        return load_checkpoint(path=path, **settings)


def close(actual: Tensor, expected: Tensor) -> None:
    """Within 1e-5 in float64; the embedding of t is in float32."""
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("ffhq256", "lsun_beds256")])
def test_a_small_model_of_each_layout_is_the_network_of_its_configuration(name: str, tmp_path: Path) -> None:
    model = latent_configs.shrink(MODELS[name])
    tensors = save(tmp_path, model)
    latent_files.write_config(tmp_path, model)
    loaded: Any = load(tmp_path / "model.ckpt")
    network, first = model["unet_config"]["params"], model["first_stage_config"]["params"]
    torch.manual_seed(0)
    side = 2 * latent_files.factor(network)
    channels = network["out_channels"]
    x, t = torch.randn(2, network["in_channels"], side, side, dtype=torch.float64), torch.tensor([3.0, 700.0])
    tokens = torch.randn(2, 5, 24, dtype=torch.float64) if "context_dim" in network else None
    condition = Condition(tokens=tokens, spatial=x[:, channels:] if network["in_channels"] > channels else None)
    expected = reference.unet(part_of(tensors, "model.diffusion_model."), x, t, network, tokens)
    close(predict(loaded.denoiser, x[:, :channels], t, condition).value, expected)
    scale = loaded.autoencoder.scale
    assert scale == pytest.approx(scale_of(model))
    weights = part_of(tensors, "first_stage_model.")
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1
    latent = reference.encode(weights, image, first)[:, : first["embed_dim"]]
    close(loaded.autoencoder.encode(image), scale * latent)
    close(loaded.autoencoder.decode(scale * latent), reference.decode(weights, latent, first))
    torch.testing.assert_close(loaded.schedule.alphas_bar, alphas_bar(model), rtol=1e-12, atol=0)


def test_an_unreleased_shape_is_refused_until_its_settings_are_given(tmp_path: Path) -> None:
    model = latent_configs.shrink(MODELS["celeba256"])
    tensors = save(tmp_path, model)
    path = tmp_path / "model.ckpt"
    needed = "heads or head_channels, attention, scale, noise_schedule, prediction"
    with pytest.raises(ValueError, match=rf"none of its released shapes.*do not tell {needed}: set them on checkpoint"):
        load(path)
    with pytest.raises(ValueError, match="do not tell attention, prediction: set"):
        load(path, heads=2, scale=0.5, noise_schedule="linear")
    settings: Any = load(path, head_channels=16, scale=0.5, noise_schedule="linear", prediction="v", attention="legacy")
    assert (settings.autoencoder.scale, settings.denoiser.network.shape.kind) == (0.5, "v")
    x, t = torch.randn(1, 3, 16, 16, dtype=torch.float64), torch.tensor([40.0])
    network = model["unet_config"]["params"]
    close(
        predict(settings.denoiser, x, t).value,
        reference.unet(part_of(tensors, "model.diffusion_model."), x, t, network),
    )


def test_settings_come_before_the_config_and_the_config_before_the_table(tmp_path: Path) -> None:
    tensors = on_meta("rdm768")
    latent_files.write_config(tmp_path, MODELS["rdm768"] | {"scale_factor": 0.3, "parameterization": "v"})
    parts = load_on_meta(tensors, tmp_path)
    assert (parts["autoencoder"].scale, parts["denoiser"].network.shape.kind) == (0.3, "v")
    parts = load_on_meta(tensors, tmp_path, scale=0.4, heads=7, prediction="x0")
    shape = parts["denoiser"].network.shape
    assert (parts["autoencoder"].scale, shape.kind, shape.heads) == (0.4, "x0", (7, 7, 7, 7))
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    named_file = latent_files.write_config(elsewhere, MODELS["rdm768"])
    assert load_on_meta(tensors, tmp_path, config=named_file)["autoencoder"].scale == 0.22765929


def test_heads_on_the_way_up_and_resampling_without_weights(tmp_path: Path) -> None:
    changes = {"num_heads": 2, "num_heads_upsample": 4, "conv_resample": False, "use_new_attention_order": True}
    model = latent_configs.shrink(MODELS["celeba256"])
    network = {name: value for name, value in model["unet_config"]["params"].items() if name != "num_head_channels"}
    model["unet_config"]["params"] = network = network | changes
    tensors = save(tmp_path, model)
    x, t = torch.randn(1, 3, 16, 16, dtype=torch.float64), torch.tensor([40.0])
    expected = reference.unet(part_of(tensors, "model.diffusion_model."), x, t, network)
    settings: dict[str, Any] = {"scale": 1.0, "noise_schedule": "linear", "prediction": "eps"}
    settings |= {"heads": 2, "upsample_heads": 4, "attention": "new"}
    close(predict(load(tmp_path / "model.ckpt", **settings).denoiser, x, t).value, expected)
    latent_files.write_config(tmp_path, model)
    close(predict(load(tmp_path / "model.ckpt").denoiser, x, t).value, expected)


def test_groups_of_a_norm_are_a_setting(tmp_path: Path) -> None:
    model = latent_configs.shrink(MODELS["celeba256"])
    save(tmp_path, model)
    latent_files.write_config(tmp_path, model)
    loaded: Any = load(tmp_path / "model.ckpt", groups=16)
    norms = [layer for part in (loaded.denoiser, loaded.autoencoder) for layer in part.modules()]
    assert {layer.num_groups for layer in norms if isinstance(layer, nn.GroupNorm)} == {16}


def test_only_a_known_model_has_a_null_class(tmp_path: Path) -> None:
    for name, count in (("cin256", 1000), ("cin256-v2", 1000)):
        label = load_on_meta(on_meta(name), tmp_path)["label"]
        assert (label.classes, label.null_class) == (count, name == "cin256-v2")
    tensors = on_meta("cin256-v2") | {"cond_stage_model.embedding.weight": torch.empty(10, 512, device="meta")}
    label = load_on_meta(tensors, tmp_path)["label"]
    assert (label.classes, label.null_class) == (10, False)  # fine-tuned on other classes than the released model
    model = latent_configs.shrink(MODELS["cin256"])
    tensors = save(tmp_path, model)
    latent_files.write_config(tmp_path, model)
    label = load(tmp_path / "model.ckpt").label
    assert label.classes == 11
    assert torch.equal(label(torch.tensor([10])).tokens[0, 0], tensors["cond_stage_model.embedding.weight"][10])  # type: ignore[index]
    with pytest.raises(ValueError, match=r"knows 11 classes, and which of them means none.*labels of 0 … 10"):
        label(torch.tensor([11]))


def test_layout_tokens_are_not_text(tmp_path: Path) -> None:
    parts = load_on_meta(on_meta("layout2img-openimages256"), tmp_path)
    with pytest.raises(ValueError, match="are the boxes and classes of a layout, not words"):
        parts["text"](["a tiger"])


def stable_tensors(shape: UNetShape) -> dict[str, Tensor]:
    """A U-Net of Stable Diffusion alone; test_released_shapes compares names and shapes with diffusers'."""
    return {f"model.diffusion_model.{name}": value for name, value in tensors_of(shape).items()}


@pytest.mark.parametrize(("shape", "kind"), [(SD1, "eps"), (replace(SD1, spatial_channels=5), "eps"), (SDXL, "eps")])
def test_stable_diffusion_has_its_heads(shape: UNetShape, kind: str, tmp_path: Path) -> None:
    loaded = load_on_meta(stable_tensors(shape), tmp_path)["denoiser"].network.shape
    # without the first stage, channels beyond the output's are those of a spatial condition
    size_width = None if shape.adm_channels is None else 256
    assert loaded == replace(shape, kind=kind, size_width=size_width)


def test_the_prediction_of_stable_diffusion_2_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Stable Diffusion 2.*set `prediction` of checkpoint\.load to v"):
        load_on_meta(stable_tensors(SD2), tmp_path)
    assert load_on_meta(stable_tensors(SD2), tmp_path, prediction="v")["denoiser"].network.shape == SD2
    inpainting = stable_tensors(replace(SD2, spatial_channels=5))
    assert load_on_meta(inpainting, tmp_path)["denoiser"].network.shape.kind == "eps"


@pytest.mark.parametrize("name", ["joint_blocks.0.x_block.attn.qkv.weight", "double_layers.0.attn.w1q.weight"])
def test_a_complete_file_of_an_unknown_family_is_named_as_such(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"model.diffusion_model.{name}": torch.zeros(2, 2)}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"model\.ckpt' is of a family that is not known: its denois") as raised:
        load_checkpoint(path=tmp_path / "model.ckpt")
    assert "damaged" not in str(raised.value)
    assert "fetch" not in str(raised.value)


def test_the_scale_of_an_unreleased_first_stage_must_be_set(tmp_path: Path) -> None:
    params = latent_configs.shrink(MODELS["txt2img-1p4B"])["first_stage_config"]["params"]
    tensors = latent_files.first_stage_tensors(params, "meta")
    with pytest.raises(ValueError, match=r"none of the released shapes of first stages\. Set scale on"):
        load_on_meta(tensors, tmp_path)
    with pytest.raises(ValueError, match="without a U-Net: leave heads, prediction out"):
        load_on_meta(tensors, tmp_path, heads=4, prediction="v", scale=1.0)


def test_a_conditioner_that_is_another_first_stage_is_refused(tmp_path: Path) -> None:
    model = latent_configs.shrink(MODELS["inpainting_big"])
    tensors = latent_files.checkpoint_tensors(model)
    latent_files.write_config(tmp_path, model)
    name = "cond_stage_model.encoder.conv_in.bias"
    torch.save({"state_dict": tensors | {name: tensors[name] + 1}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"another first stage than its own \(1 tensors differ: encoder\.conv"):
        load_checkpoint(path=tmp_path / "model.ckpt")


def test_the_rescaling_of_a_map_must_be_set(tmp_path: Path) -> None:
    save(tmp_path, latent_configs.shrink(MODELS["semantic_synthesis256"]))
    settings = {"heads": 8, "attention": "legacy", "scale": 1.0, "noise_schedule": "linear", "prediction": "eps"}
    with pytest.raises(ValueError, match="its tensors do not tell config: set"):
        load(tmp_path / "model.ckpt", **settings)


def test_a_folder_holds_one_file_and_its_config(tmp_path: Path) -> None:
    model = latent_configs.shrink(MODELS["celeba256"])
    save(tmp_path, model)
    latent_files.write_config(tmp_path, model)
    assert load(tmp_path).autoencoder.scale == 1.0
    (tmp_path / "other.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 2 checkpoint files, model\.ckpt, other\.ckpt: name the file"):
        load(tmp_path)

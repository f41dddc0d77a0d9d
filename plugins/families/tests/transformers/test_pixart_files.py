"""PixArt-Σ in the authors' layout and in diffusers': outputs, released sizes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph import Condition, predict, select_sites
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.store import load_part, save_parts
from guidegraph_families.pixart.folder import CLASSES, pixart_tensors, read_pixart_config
from guidegraph_families.pixart.single_file import build_pixart, is_pixart, load_pixart
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import pixart_writer

pytest.importorskip("diffusers")

MILLIONS = 611
"""Parameters of PixArt-Σ's transformer: its paper says 0.6 B."""

SETTINGS: dict[str, Any] = {"heads": 2, "noise_schedule": "linear"}


@pytest.fixture(scope="module")
def model() -> Any:
    return pixart_writer.network()


def inputs(height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, tokens and their mask."""
    generator = torch.Generator().manual_seed(5)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((2, 4, height, width), (2, 7, 24)))
    return x, torch.tensor([3.0, 700.0]), tokens, torch.arange(7) < torch.tensor([[7], [3]])


def check(loaded: Any, model: Any, *size: int) -> None:
    x, t, tokens, mask = inputs(*size)
    expected = model(
        x, tokens, t, {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=mask.long()
    ).sample
    assert expected.std() > 0.1
    output = loaded.denoiser.network(x, t, tokens=tokens, mask=mask)
    difference_bounds.largest(output, expected, 1e-4, "ε and variance")
    prediction = predict(loaded.denoiser, x, t, Condition(tokens=tokens, mask=mask))
    assert (prediction.kind, prediction.variance) == ("eps", None)
    assert torch.equal(prediction.value, output[:, :4])


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_both_layouts_give_the_output_of_diffusers(size: tuple[int, int], model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    torch.save({"state_dict": pixart_writer.authors_tensors(model)}, tmp_path / "model.pth")
    check(load_checkpoint(path=tmp_path), model, *size)
    loaded = load_checkpoint(path=tmp_path / "model.pth", **SETTINGS)
    check(loaded, model, *size)
    assert float(loaded.schedule.alphas_bar[0]) == pytest.approx(1 - 1e-4)


@pytest.mark.parametrize(("sample_size", "scale"), [(16, 0.5), (8, 1), (64, None), (128, None)])
def test_positions_are_scaled_to_those_of_training(sample_size: int, scale: float | None, tmp_path: Path) -> None:
    model = pixart_writer.network(sample_size=sample_size, interpolation_scale=scale, num_layers=1)
    model.save_pretrained(tmp_path)
    torch.save(pixart_writer.authors_tensors(model), tmp_path / "model.pth")
    for loaded in (load_checkpoint(path=tmp_path), load_checkpoint(path=tmp_path / "model.pth", **SETTINGS)):
        check(loaded, model, 16, 8)


def test_a_saved_model_is_the_same(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "folder")
    denoiser: Any = load_checkpoint(path=tmp_path / "folder").denoiser
    save_parts(tmp_path / "saved", {"denoiser": denoiser}, dtype=torch.float32)
    saved: Any = load_part(tmp_path / "saved", "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert saved.config == denoiser.config
    x, t, tokens, mask = inputs()
    condition = Condition(tokens=tokens, mask=mask)
    assert torch.equal(predict(saved, x, t, condition).value, predict(denoiser, x, t, condition).value)


def test_the_released_class_name_is_known(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == CLASSES[0]
    extra = {"double_self_attention": False, "only_cross_attention": False, "num_vector_embeds": None}
    (tmp_path / "config.json").write_text(json.dumps({**config, **extra, "_class_name": CLASSES[1]}))
    check(load_checkpoint(path=tmp_path), model)


def test_padding_has_no_effect_and_blocks_can_be_left_out(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    denoiser: Any = load_checkpoint(path=tmp_path).denoiser
    x, t, tokens, mask = inputs()
    changed = torch.where(mask[..., None], tokens, 100.0)
    torch.testing.assert_close(
        denoiser.network(x, t, tokens=changed, mask=mask), denoiser.network(x, t, tokens=tokens, mask=mask)
    )
    assert [site.name for site in denoiser.sites()[:5]] == [
        "input.block.0", "self.block.0", "cross.block.0", "skip.block.0", "feature.block.0",
    ]  # fmt: skip
    rules = {site: lambda h, skipped: (0 * h, skipped) for site in select_sites(denoiser, "skip.block.1")}
    actual = denoiser.network(x, t, tokens=tokens, mask=mask, hooks=Hooks(rules))
    shorter = pixart_writer.network()
    del shorter.transformer_blocks[1]
    sizes = {"resolution": None, "aspect_ratio": None}
    expected = shorter(x, tokens, t, sizes, encoder_attention_mask=mask.long()).sample
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", pixart_writer.RELEASED)
def test_a_released_pixart_has_every_key_and_no_other(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        model = diffusers.PixArtTransformer2DModel(**pixart_writer.RELEASED_SHAPE, **pixart_writer.RELEASED[name])
    tensors = pixart_writer.authors_tensors(model)
    assert is_pixart(tensors)
    without_positions = {key: tensor for key, tensor in tensors.items() if key != "pos_embed"}
    with use_device("meta", "float32"):
        files = [load_pixart(file, Path("a.pth"), LoadOptions()) for file in (tensors, without_positions)]
        config = read_pixart_config({**model.config, "_class_name": CLASSES[0]}, Path("config.json"), "eps")
        folder = build_pixart(config, pixart_tensors(model.state_dict(), config), "folder")
    held = files[0]["denoiser"].network.state_dict()
    assert sum(tensor.numel() for tensor in held.values()) == sum(p.numel() for p in model.parameters())
    assert round(sum(tensor.numel() for tensor in held.values()) / 1e6) == MILLIONS
    assert set(held) == set(tensors) - {"pos_embed", "y_embedder.y_embedding"}
    for parts in (*files, folder):
        network = parts["denoiser"].network
        assert network.state_dict().keys() == held.keys()
        assert network.config == config
    assert (config.grid, config.heads, config.context_dim) == (32, 16, 4096)


def test_what_a_file_does_not_tell_is_asked_for(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    tensors = pixart_writer.authors_tensors(model)
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"width 32 with 3 blocks, .* do not tell heads or head_channels, noise_sched"):
        load_checkpoint(path=path)
    with pytest.raises(ValueError, match="do not tell noise_schedule: set"):
        load_checkpoint(path=path, head_channels=16)
    with pytest.raises(ValueError, match="which is not a multiple of heads = 3"):
        load_checkpoint(path=path, heads=3, noise_schedule="linear")
    with pytest.raises(ValueError, match="is a PixArt, which has no use for scale"):
        load_checkpoint(path=path, scale=1.0, **SETTINGS)
    torch.save({name: tensor for name, tensor in tensors.items() if name != "pos_embed"}, path)
    assert load_checkpoint(path=path, **SETTINGS).denoiser.config.grid == 32  # type: ignore[attr-defined]
    alpha = pixart_writer.authors_tensors(model, tokens=120)
    torch.save({name: tensor for name, tensor in alpha.items() if name != "pos_embed"}, path)
    with pytest.raises(ValueError, match="does not tell its positions: it holds no pos_embed"):
        load_checkpoint(path=path, **SETTINGS)


def test_incomplete_and_foreign_files_are_refused(model: Any, tmp_path: Path) -> None:
    tensors = pixart_writer.authors_tensors(model)
    path = tmp_path / "model.pth"
    for changes, match in (
        ({"blocks.1.mlp.fc2.bias": None}, r"1 missing: blocks\.1\.mlp\.fc2\.bias"),
        ({"blocks.1.attn.q_norm.weight": torch.ones(16)}, r"1 left over: blocks\.1\.attn\.q_norm\.weight"),
        ({"blocks.2.scale_shift_table": torch.ones(5, 32)}, r"of another shape: blocks\.2\.scale_shift_table"),
        ({"pos_embed": tensors["pos_embed"] + 0.01}, "holds other positions than the sines and cosines"),
        ({"pos_embed": torch.zeros(1, 15, 32)}, "15 positions, which are no square"),
        ({"pos_embed": torch.zeros(1, 16, 2)}, "pos_embed has the shape"),
        ({"pos_embed": torch.full((1, 16, 32), torch.nan)}, "holds other positions"),
        ({"final_layer.linear.weight": None}, r"holds no final_layer\.linear\.weight: it is incomplete"),
        ({"csize_embedder.mlp.0.weight": torch.ones(1)}, "is PixArt-α with embeddings of the picture's size"),
    ):
        changed = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        torch.save(changed, path)
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path, **SETTINGS)


def test_a_config_of_another_network_is_refused() -> None:
    config = {"_class_name": CLASSES[0], **pixart_writer.TINY}
    path = Path("config.json")
    assert read_pixart_config(config, path, "eps").grid == 4
    for change, match in (
        ({"norm_type": "ada_norm_zero"}, "'norm_type' is 'ada_norm_zero', and only 'ada_norm_single' is supported"),
        ({"cross_attention_dim": 48}, "'cross_attention_dim' is not the width of the heads, 32"),
        ({"caption_channels": None}, "'caption_channels' is None; expected a whole number"),
        ({"use_additional_conditions": True}, "describes PixArt-α with embeddings of the picture's size"),
        ({"use_additional_conditions": None, "sample_size": 128}, "describes PixArt-α"),
        ({"interpolation_scale": "two"}, "'interpolation_scale' is 'two'; expected a number above 0"),
        ({"gated": True}, "'gated' is True, which is not known"),
    ):
        with pytest.raises(ValueError, match=match):
            read_pixart_config({**config, **change}, path, "eps")

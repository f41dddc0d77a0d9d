"""lora.apply against the closed form on diffusers' own modules, in every layout; errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.lora_layers import read_lora
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.training.lora import apply_lora
from guidegraph.nodes.types import Condition
from guidegraph_families.diffusers.unet import to_canonical, unet_layout
from plugins.families.tests import difference_bounds
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.diffusers.loras import Lora

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

BOTH = ("unet", "text_encoder")


class SavedPipeline:
    def __init__(self, family: str, root: Path) -> None:
        self.root = root
        self.pipe = pipelines.pipeline(family, root)
        self.pipe.save_pretrained(root / "folder")
        self.file = pipelines.single_file(self.pipe, family, root / "model.safetensors")
        self.folder = load_checkpoint(path=root / "folder")
        self.single = load_checkpoint(path=self.file, tokenizer=root / "eos")


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline("sd1", tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline("sdxl", tmp_path_factory.mktemp("large"))


LAYOUTS = {
    "peft": (lambda lora, path: lora.peft(path), False),
    "peft with metadata": (lambda lora, path: lora.peft(path, metadata=True), True),
    "diffusers": (lambda lora, path: lora.peft(path, names=("lora.down", "lora.up")), False),
    "diffusers before peft": (lambda lora, path: lora.before_peft(path), False),
    "kohya": (lambda lora, path: lora.kohya(path), True),
}


def check(actual: Any, changed: dict[str, Any], pipe: Any, condition: Any = None) -> None:
    """Assert that ε and tokens of an adapted checkpoint equal those of diffusers' changed modules."""
    torch.manual_seed(5)
    x, t, tokens = torch.randn(1, 4, 16, 16), torch.tensor([300.0]), torch.randn(1, 7, 64)
    with torch.no_grad():
        eps = changed.get("unet", pipe.unet)(x, t, encoder_hidden_states=tokens).sample
    difference_bounds.largest(predict(actual.denoiser, x, t, Condition(tokens=tokens)).value, eps, 1e-4, "ε")
    ids = pipe.tokenizer(["a b"], padding="max_length", return_tensors="pt").input_ids
    words = changed.get("text_encoder", pipe.text_encoder)(ids).last_hidden_state
    difference_bounds.largest(encode_text(actual.text, "a b").tokens, words, 1e-5, "text embeddings")


@pytest.mark.parametrize("strength", [0.0, 0.5, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_is_the_closed_form_in_every_layout(
    stable: SavedPipeline, tmp_path: Path, layout: str, strength: float
) -> None:
    lora = Lora(stable.pipe, BOTH)
    assert any(down.ndim == 4 and down.shape[-1] == 3 for down, _, _ in lora.factors["unet"].values())
    write, alphas = LAYOUTS[layout]
    path = write(lora, tmp_path / "lora.safetensors")
    changed = lora.apply(stable.pipe, strength, alphas)
    for loaded in (stable.folder, stable.single):
        actual = apply_lora(loaded.denoiser, loaded.text, path=path, strength=strength)
        check(actual, changed, stable.pipe)
    if strength:
        moved = changed["unet"].state_dict()
        assert sum(not torch.equal(value, moved[name]) for name, value in stable.pipe.unet.state_dict().items()) > 10
        with pytest.raises(AssertionError):
            check(stable.folder, changed, stable.pipe)
    check(stable.folder, {}, stable.pipe)  # what came in is unchanged


def test_the_copies_share_unchanged_weights_and_two_loras_add_up(stable: SavedPipeline, tmp_path: Path) -> None:
    first, second = Lora(stable.pipe, ("unet",), 1), Lora(stable.pipe, ("unet",), 2)
    once = apply_lora(stable.folder.denoiser, path=first.peft(tmp_path / "1.safetensors"), strength=0.7)
    two = apply_lora(once.denoiser, stable.folder.text, path=second.kohya(tmp_path / "2.safetensors"), strength=-0.4)
    assert once.text is None
    assert two.text is stable.folder.text
    before: Any = stable.folder.denoiser
    after: Any = once.denoiser
    shared = [a is b for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(shared)
    assert len(shared) - sum(shared) == len(first.factors["unet"])
    changed = first.apply(stable.pipe, 0.7, False)
    stable_with_first = type("Pipe", (), {"unet": changed["unet"]})
    check(two, second.apply(stable_with_first, -0.4, True), stable.pipe)


def test_sdxl_takes_both_text_encoders_and_the_names_of_its_own_software(large: SavedPipeline, tmp_path: Path) -> None:
    lora = Lora(large.pipe, ("unet", "text_encoder", "text_encoder_2"))
    denoiser: Any = large.single.denoiser
    layout = unet_layout(denoiser.network.shape)
    path = lora.kohya(tmp_path / "lora.safetensors", unet_names=lambda name: to_canonical(name, layout))
    assert any(name.startswith("lora_unet_input_blocks_") for name in load_file(path))
    changed = lora.apply(large.pipe, 0.8, True)
    actual = apply_lora(large.single.denoiser, large.single.text, path=path, strength=0.8)
    tokens = large.pipe.tokenizer(["a b"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    padded = large.pipe.tokenizer_2(["a b"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    first = changed["text_encoder"](tokens, output_hidden_states=True).hidden_states[-2]
    two = changed["text_encoder_2"](padded, output_hidden_states=True)
    condition = encode_text(actual.text, "a b")  # type: ignore[arg-type]
    expected = torch.cat([first, two.hidden_states[-2]], dim=2)
    torch.testing.assert_close(condition.tokens, expected, rtol=0, atol=1e-5)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([300.0])
    added = {"text_embeds": two.text_embeds, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]])}
    with torch.no_grad():
        eps = changed["unet"](x, t, encoder_hidden_states=expected, added_cond_kwargs=added).sample
    torch.testing.assert_close(predict(actual.denoiser, x, t, condition).value, eps, rtol=0, atol=1e-4)


def test_a_folder_of_peft_with_its_own_alpha(stable: SavedPipeline, tmp_path: Path) -> None:
    down, up = torch.randn(2, 64), torch.randn(32, 2)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    pair = {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
    save_file(pair, tmp_path / "adapter_model.safetensors")
    settings: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert read_lora(tmp_path)[layer].scale == 3.0
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "use_rslora": True}))
    assert read_lora(tmp_path)[layer].scale == pytest.approx(6 / 2**0.5)
    actual: Any = apply_lora(stable.folder.denoiser, path=tmp_path, strength=0.5).denoiser
    plain: Any = stable.folder.denoiser
    name = "network.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    moved = dict(actual.named_parameters())[name] - dict(plain.named_parameters())[name]
    torch.testing.assert_close(moved, 0.5 * 6 / 2**0.5 * up @ down, rtol=1e-4, atol=1e-5)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(ValueError, match="it is a DoRA"):
        read_lora(tmp_path)


def test_a_lora_for_another_model_is_one_error_that_names_it(
    stable: SavedPipeline, large: SavedPipeline, tmp_path: Path
) -> None:
    path = Lora(large.pipe, ("unet",)).kohya(tmp_path / "large.safetensors")
    with pytest.raises(
        ValueError, match=r"the LoRA '.*large\.safetensors' is for another model: \d+ of its \d+ layers"
    ):
        apply_lora(stable.folder.denoiser, stable.folder.text, path=path)
    for strength in (float("nan"), 1e39):
        with pytest.raises(ValueError, match="strength of a LoRA is a finite number of float32; found "):
            apply_lora(large.folder.denoiser, path=path, strength=strength)
    tensors = {
        "unet.conv_in.lora_A.weight": torch.zeros(2, 9, 3, 3),
        "unet.conv_in.lora_B.weight": torch.zeros(32, 2, 1, 1),
    }
    save_file(tensors, tmp_path / "inpaint.safetensors")
    with pytest.raises(ValueError, match=r"for another model: its factors .*\(2, 9, 3, 3\) do not make the weight"):
        apply_lora(stable.folder.denoiser, path=tmp_path / "inpaint.safetensors")
    combined = Lora(stable.pipe, BOTH).peft(tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match=r"changes the text encoder too .*wire the checkpoint's text"):
        apply_lora(stable.folder.denoiser, path=combined)
    check(stable.folder, {}, stable.pipe)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_conv_in.hada_w1_a", "its layers are of kind LoHa"),
        ("unet.conv_in.lora_magnitude_vector", "its layers are of kind DoRA"),
        ("unet.conv_in.weight", "it has keys that belong to no pair of factors: unet.conv_in.weight"),
        ("diffusion_model.out.2.bias", "it has keys that belong to no pair of factors: diffusion_model.out.2.bias"),
        ("lora_unet_conv_in.diff_b", "its layers are of kind whole differences"),
        ("lora_unet_conv_in.oft_blocks", "its layers are of kind OFT"),
        ("unet.conv_out.lora_A.weight", "unet.conv_out lacks a factor"),
    ],
)
def test_other_adapters_are_named(tmp_path: Path, key: str, message: str) -> None:
    complete = {
        "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.zeros(32, 2, 1, 1),
    }
    save_file(complete | {key: torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=message):
        read_lora(tmp_path / "lora.safetensors")
    save_file({"unet.x.alpha": torch.tensor(1.0)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="is not a complete LoRA"):
        read_lora(tmp_path / "lora.safetensors")
    other: Any = lambda x, t, condition: None  # noqa: E731
    with pytest.raises(ValueError, match=r"lora\.apply takes a denoiser with torch layers of its own.*found function"):
        apply_lora(other, path=tmp_path / "lora.safetensors")


def test_a_checkpoint_is_not_called_an_adapter_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, path)
    with pytest.raises(ValueError, match=r"it holds no pairs of factors; it is a checkpoint, .*: model\.diffusion_"):
        read_lora(path)


def test_a_lora_under_the_names_of_the_single_file(stable: SavedPipeline, tmp_path: Path) -> None:
    down, up = torch.randn(2, 64), torch.randn(32, 2)
    layer = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    pair = {f"diffusion_model.{layer}.lora_down.weight": down, f"diffusion_model.{layer}.lora_up.weight": up}
    save_file(pair, tmp_path / "lora.safetensors")
    actual: Any = apply_lora(stable.folder.denoiser, path=tmp_path / "lora.safetensors").denoiser
    plain: Any = stable.folder.denoiser
    moved = actual.get_parameter(f"network.{layer}.weight") - plain.get_parameter(f"network.{layer}.weight")
    torch.testing.assert_close(moved, up @ down, rtol=1e-4, atol=1e-5)

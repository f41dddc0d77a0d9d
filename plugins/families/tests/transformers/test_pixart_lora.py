"""LoRA files for PixArt in the layouts of diffusers, peft and kohya, for its transformer and T5."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guidegraph import Condition, predict
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.training.lora import apply_lora, merge_lora, save_lora
from guidegraph.nodes.types import Denoiser
from guidegraph_families.pixart.network import pixart_layers
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import pixart_writer
from plugins.families.tests.transformers.lora_factors import random_factors, randomise_lora, underscore, write_lora

pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "proj", "proj_out", "linear", "linear_1", "linear_2", "ff.net.0.proj",
    "ff.net.2",
]  # fmt: skip
"""Those of diffusers' training script for PixArt, and the first convolution."""

RANKS, ALPHAS = {"to_k": 2, "ff.net.2": 5}, {"to_q": 1, "proj_out": 6}
"""Of layers where they are not 3 and 2."""


@pytest.fixture(scope="module")
def model() -> Any:
    return pixart_writer.network()


@pytest.fixture(scope="module")
def denoiser(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = tmp_path_factory.mktemp("pixart")
    model.save_pretrained(folder)
    return load_checkpoint(path=folder).denoiser


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, tokens and their mask."""
    generator = torch.Generator().manual_seed(5)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 16), (2, 7, 24)))
    return x, torch.tensor([3.0, 700.0]), tokens, torch.arange(7) < torch.tensor([[7], [3]])


def compute(denoiser: Denoiser) -> Tensor:
    x, t, tokens, mask = inputs()
    return predict(denoiser, x, t, Condition(tokens=tokens, mask=mask)).value


def expect(model: Any) -> Tensor:
    x, t, tokens, mask = inputs()
    sizes = {"resolution": None, "aspect_ratio": None}
    output: Tensor = model(x, tokens, t, sizes, encoder_attention_mask=mask.long()).sample.detach()
    return output[:, :4]


def adapt(model: nn.Module, **settings: Any) -> Any:
    """A copy in peft, with an adapter of random factors."""
    torch.manual_seed(7)
    config = peft.LoraConfig(r=3, lora_alpha=2, init_lora_weights=False, **settings)
    return peft.get_peft_model(copy.deepcopy(model), config)


def merge(adapted: Any, strength: float) -> Any:
    """The model of peft with its adapter merged at a strength."""
    for module in adapted.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(strength)
    return adapted.merge_and_unload()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_folder_of_peft_is_that_of_peft_merged(
    strength: float, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    adapted = adapt(model, target_modules=TARGETS, rank_pattern=RANKS, alpha_pattern=ALPHAS)
    adapted.save_pretrained(str(tmp_path))
    expected, plain = expect(merge(adapted, strength)), compute(denoiser)
    actual = compute(apply_lora(denoiser, path=tmp_path, strength=strength).denoiser)
    difference_bounds.largest(actual, expected, 1e-4, f"ε with a LoRA of peft at {strength:g}")
    assert strength == 0 or (expected - plain).abs().max() > 0.05


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model."])
def test_a_lora_under_the_names_of_diffusers_is_that_of_peft_merged(
    prefix: str, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    adapted = adapt(
        model, target_modules=["to_q", "to_v", "proj_out"], rank_pattern={"to_q": 2, "to_v": 2, "proj_out": 2}
    )
    state = peft.get_peft_model_state_dict(adapted)
    file = {prefix + name.removeprefix("base_model.model."): factor.clone() for name, factor in state.items()}
    names = {name.rpartition(".lora_")[0] for name in file}
    save_file(file | {f"{name}.alpha": torch.tensor(2.0) for name in names}, tmp_path / "lora.safetensors")
    actual = compute(apply_lora(denoiser, path=tmp_path / "lora.safetensors").denoiser)
    difference_bounds.largest(actual, expect(adapted.merge_and_unload()), 1e-4, "ε with a LoRA of diffusers' names")


@pytest.mark.parametrize("prefix", ["lora_transformer", "lora_unet"])
def test_a_kohya_file_under_the_names_of_diffusers_is_the_closed_form(
    prefix: str, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    changed = copy.deepcopy(model)
    layers = {name: m for name, m in changed.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(layers) == set(pixart_layers(denoiser.config))  # type: ignore[attr-defined]
    factors = random_factors({name: layer.weight for name, layer in layers.items()})
    write_lora(factors, underscore(prefix), tmp_path / "lora.safetensors")
    for name, layer in layers.items():
        layer.weight += factors[name].change(layer.weight)
    actual = compute(apply_lora(denoiser, path=tmp_path / "lora.safetensors").denoiser)
    difference_bounds.largest(actual, expect(changed), 1e-4, "ε with kohya's LoRA")


@pytest.mark.parametrize(
    "rename", [underscore("lora_unet"), lambda name: f"diffusion_model.{name}"], ids=["kohya", "comfy"]
)
def test_a_lora_under_the_names_of_the_authors_is_the_closed_form(
    rename: Callable[[str], str], model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    tensors = pixart_writer.authors_tensors(model)
    linear = {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.ndim > 1
    }
    factors = random_factors(linear)
    write_lora(factors, rename, tmp_path / "lora.safetensors")
    actual = apply_lora(denoiser, path=tmp_path / "lora.safetensors", strength=0.7).denoiser
    state = actual.network.state_dict()  # type: ignore[attr-defined]
    assert len(linear) > 20
    for name, weight in linear.items():
        expected = weight + 0.7 * factors[name].change(weight)
        torch.testing.assert_close(state[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)


def test_a_lora_with_layers_that_the_model_lacks_is_one_error(denoiser: Denoiser, tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.3.attn1.to_q"  # there are three blocks
    file = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_file(file, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"transformer_blocks\.3\.attn1\.to_q"):
        apply_lora(denoiser, path=tmp_path / "lora.safetensors")


def test_peft_reads_a_lora_that_was_trained_here(model: Any, denoiser: Denoiser, tmp_path: Path) -> None:
    trained = randomise_lora(denoiser)
    path = Path(save_lora(trained, path=tmp_path / "lora.safetensors", layout="peft"))
    expected = compute(merge_lora(trained))
    assert (expected - compute(denoiser)).abs().max() > 0.05
    difference_bounds.largest(compute(apply_lora(denoiser, path=path).denoiser), expected, 1e-4, "ε with our LoRA")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    layers = sorted({name.rsplit(".", 2)[0] for name in tensors})
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, lora_alpha=3, target_modules=layers))
    loaded = peft.set_peft_model_state_dict(adapted, {f"base_model.model.{name}": t for name, t in tensors.items()})
    assert not loaded.unexpected_keys
    difference_bounds.largest(expect(adapted.merge_and_unload()), expected, 1e-4, "ε of peft with our LoRA")

"""LoRA files for Flux.1 in the layouts of diffusers, kohya and Black Forest Labs, on a network of joined layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph import Condition, predict
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.sampling.denoiser import set_distilled_guidance
from guidegraph.nodes.training.lora import apply_lora, merge_lora, new_lora, save_lora
from guidegraph.nodes.types import Denoiser
from guidegraph_families.flux.network import flux_layers
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import flux_pipelines, flux_writer
from plugins.families.tests.transformers.lora_factors import (
    adapt_by_diffusers,
    random_factors,
    randomise_lora,
    underscore,
    write_lora,
)
from plugins.families.tests.transformers.test_flux_files import SCALES, expect, inputs, write_file

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

STRENGTHS = (0.0, 0.5, 1.0)
TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj",
    "ff_context.net.2", "proj_mlp", "proj_out", "norm.linear", "norm1.linear", "norm_out.linear", "x_embedder",
    "context_embedder", "timestep_embedder.linear_1", "guidance_embedder.linear_2",
]  # fmt: skip
RANKS, ALPHAS = {"to_k": 2, "proj_mlp": 5}, {"to_q": 1, "proj_out": 6}
"""Of layers where they are not 3 and 2."""


@pytest.fixture(scope="module")
def model() -> Any:
    return flux_writer.network("dev")


@pytest.fixture(scope="module")
def denoiser(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    path = write_file(model, tmp_path_factory.mktemp("flux") / "model.safetensors", prefix="")
    return load_checkpoint(path=path).denoiser


def compute(denoiser: Denoiser) -> Tensor:
    x, t, tokens, vector = inputs()
    told = set_distilled_guidance(denoiser, scale=SCALES)  # type: ignore[arg-type]
    return predict(told, x, t, Condition(tokens=tokens, vector=vector)).value


def write_by_diffusers(model: Any, path: Path) -> Any:
    """The file of diffusers' `save_lora_weights`, with peft's settings in its header. Returns the adapted model."""
    torch.manual_seed(7)
    adapted = copy.deepcopy(model)
    config = peft.LoraConfig(
        r=3, lora_alpha=2, target_modules=TARGETS, rank_pattern=RANKS, alpha_pattern=ALPHAS, init_lora_weights=False
    )
    adapted.add_adapter(config, "default_0")
    settings = {key: sorted(item) if isinstance(item, set) else item for key, item in config.to_dict().items()}
    diffusers.FluxPipeline.save_lora_weights(
        str(path.parent),
        weight_name=path.name,
        transformer_lora_layers=peft.get_peft_model_state_dict(adapted, adapter_name="default_0"),
        transformer_lora_adapter_metadata=settings,
    )
    return adapted


def test_a_lora_of_diffusers_computes_what_diffusers_does(model: Any, denoiser: Denoiser, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    adapted = write_by_diffusers(model, path)
    plain = compute(denoiser)
    for strength in STRENGTHS:
        adapted.set_adapters(["default_0"], weights=[strength])
        expected = expect(adapted, *inputs()).detach()
        actual = compute(apply_lora(denoiser, path=path, strength=strength).denoiser)
        difference_bounds.largest(actual, expected, 1e-4, f"u with a LoRA at {strength:g}")
        assert strength == 0 or (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(compute(denoiser), plain)


NAMES: dict[str, Callable[[str], str]] = {
    "kohya": underscore("lora_unet"),
    "comfy": lambda name: f"diffusion_model.{name}",
    "transformer": lambda name: f"transformer.{name}",
    "bfl": lambda name: name,
    "saved here before": lambda name: f"unet.{name}",
}


@pytest.mark.parametrize("layout", NAMES)
def test_a_lora_under_the_names_of_the_single_file_is_the_closed_form(
    layout: str, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    tensors = flux_writer.single_file(model)
    weights = {name.removesuffix(".weight"): t for name, t in tensors.items() if name.endswith(".weight")}
    factors = random_factors(weights)
    write_lora(factors, NAMES[layout], tmp_path / "lora.safetensors")
    for name, weight in weights.items():
        tensors[f"{name}.weight"] = weight + 0.7 * factors[name].change(weight)
    actual = apply_lora(denoiser, path=tmp_path / "lora.safetensors", strength=0.7).denoiser
    state = actual.network.state_dict()  # type: ignore[attr-defined]
    assert len(weights) == 10 + 2 * (10 + 3)  # embedders and head, and the layers of two blocks of each kind
    for name, expected in tensors.items():
        torch.testing.assert_close(state[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["lora_transformer", "lora_unet"])
def test_a_kohya_file_under_the_names_of_diffusers_is_the_closed_form(
    prefix: str, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    changed = copy.deepcopy(model)
    layers = {name: m for name, m in changed.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(layers) == set(flux_layers(denoiser.config))  # type: ignore[attr-defined]
    factors = random_factors({name: layer.weight for name, layer in layers.items()})
    write_lora(factors, underscore(prefix), tmp_path / "lora.safetensors")
    for name, layer in layers.items():
        layer.weight += factors[name].change(layer.weight)
    actual = compute(apply_lora(denoiser, path=tmp_path / "lora.safetensors").denoiser)
    difference_bounds.largest(actual, expect(changed, *inputs()), 1e-4, "u with kohya's LoRA")


@pytest.mark.parametrize("prefix", ["lora_te2", "lora_te3"])  # as the other encoders' names go on, and kohya's own
def test_a_kohya_file_changes_t5(prefix: str, denoiser: Denoiser, tmp_path: Path) -> None:
    flux_pipelines.pipeline("schnell", tmp_path).save_pretrained(tmp_path / "folder")
    text = load_checkpoint(path=tmp_path / "folder").text
    name = "encoder.block.1.layer.1.DenseReluDense.wo"
    weight: Tensor = text.get_parameter(f"towers.1.model.{name}.weight")  # type: ignore[attr-defined]
    factors = random_factors({name: weight})
    write_lora(factors, underscore(prefix), tmp_path / "lora.safetensors")
    changed: Any = apply_lora(denoiser, text, path=tmp_path / "lora.safetensors").text
    actual = changed.get_parameter(f"towers.1.model.{name}.weight")
    torch.testing.assert_close(actual, weight + factors[name].change(weight))


def test_diffusers_reads_a_lora_that_was_trained_here(model: Any, denoiser: Denoiser, tmp_path: Path) -> None:
    """kohya's layout, which diffusers splits into its own layers; those of blocks with one stream need full width."""
    trained: Any = new_lora(denoiser, rank=2, targets=["double_blocks.*"])
    generator = torch.Generator().manual_seed(1)
    for name, parameter in trained.named_parameters():
        if name.endswith("lora_B"):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    path = Path(save_lora(trained, path=tmp_path / "lora.safetensors"))
    expected = compute(merge_lora(trained))
    assert (expected - compute(denoiser)).abs().max() > 0.05
    difference_bounds.largest(compute(apply_lora(denoiser, path=path).denoiser), expected, 1e-4, "u with our LoRA")
    adapted = copy.deepcopy(model)
    state = diffusers.FluxPipeline.lora_state_dict(str(path))
    adapted.load_lora_adapter(state, prefix="transformer")
    difference_bounds.largest(expect(adapted, *inputs()).detach(), expected, 1e-4, "u of diffusers with our LoRA")


def test_diffusers_reads_a_lora_that_was_trained_here_in_the_layout_of_peft(
    model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    trained = randomise_lora(denoiser)
    path = Path(save_lora(trained, path=tmp_path / "lora.safetensors", layout="peft"))
    expected = compute(merge_lora(trained))
    assert (expected - compute(denoiser)).abs().max() > 0.05
    difference_bounds.largest(compute(apply_lora(denoiser, path=path).denoiser), expected, 1e-4, "u with our LoRA")
    adapted = adapt_by_diffusers(model, diffusers.FluxPipeline, path)
    difference_bounds.largest(expect(adapted, *inputs()).detach(), expected, 1e-4, "u of diffusers with our LoRA")


def test_the_attention_of_a_new_lora_is_in_every_block(denoiser: Denoiser) -> None:
    lora: Any = new_lora(denoiser, rank=2)
    layers = {name.rsplit(".", 1)[0].removeprefix("network.") for name in lora.trainable_names()}
    single = {f"single_blocks.{i}.{layer}" for i in range(2) for layer in ("modulation.lin", "linear1", "linear2")}
    streams = ("img_attn", "txt_attn")
    double = {
        f"double_blocks.{i}.{stream}.{layer}" for i in range(2) for stream in streams for layer in ("qkv", "proj")
    }
    assert layers == single | double


def test_a_lora_of_another_width_is_one_error(denoiser: Denoiser, tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn.to_k"
    file = {f"{layer}.lora_A.weight": torch.zeros(2, 256), f"{layer}.lora_B.weight": torch.zeros(128, 2)}
    save_file(file, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"factors \(128, 2\) and \(2, 256\) do not make the weight \(256, 256\)"):
        apply_lora(denoiser, path=tmp_path / "lora.safetensors")

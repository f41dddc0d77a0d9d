"""LoRA files for Stable Diffusion 3 in the layouts of diffusers, peft and kohya, for its transformer and its texts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from guidegraph import Condition, predict
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.models.transformers.mmdit import sd3_layers
from guidegraph.nodes.training.lora import apply_lora, merge_lora, save_lora
from guidegraph.nodes.types import Denoiser
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import sd3_pipelines, sd3_writer
from plugins.families.tests.transformers.lora_factors import (
    adapt_by_diffusers,
    random_factors,
    randomise_lora,
    underscore,
    write_lora,
)

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj",
    "ff_context.net.2", "proj_out", "norm1.linear", "norm1_context.linear", "norm_out.linear", "context_embedder",
    "timestep_embedder.linear_1", "text_embedder.linear_2",
]  # fmt: skip
RANKS, ALPHAS = {"to_k": 2, "norm1.linear": 5}, {"to_q": 1, "proj_out": 6}
"""Of layers where they are not 3 and 2."""


@pytest.fixture(scope="module")
def model() -> Any:
    return sd3_writer.network("3.5 medium")


@pytest.fixture(scope="module")
def denoiser(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = tmp_path_factory.mktemp("sd3")
    model.save_pretrained(folder)
    return load_checkpoint(path=folder).denoiser


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, tokens and a vector."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 16, 16, generator=generator)
    tokens = torch.randn(2, 7, 24, generator=generator)
    return x, torch.tensor([3.0, 700.0]), tokens, torch.randn(2, 20, generator=generator)


def compute(denoiser: Denoiser) -> Tensor:
    x, t, tokens, vector = inputs()
    return predict(denoiser, x, t, Condition(tokens=tokens, vector=vector)).value


def expect(model: Any) -> Tensor:
    x, t, tokens, vector = inputs()
    output: Tensor = model(x, tokens, vector, t).sample.detach()
    return output


def adapt(model: nn.Module, **settings: Any) -> Any:
    """A copy with an adapter of random factors."""
    torch.manual_seed(7)
    adapted: Any = copy.deepcopy(model)
    adapted.add_adapter(peft.LoraConfig(r=3, lora_alpha=2, init_lora_weights=False, **settings), "default_0")
    return adapted


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_lora_of_diffusers_is_that_of_diffusers_fused(
    strength: float, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    adapted = adapt(model, target_modules=TARGETS, rank_pattern=RANKS, alpha_pattern=ALPHAS)
    config = adapted.peft_config["default_0"].to_dict()
    diffusers.StableDiffusion3Pipeline.save_lora_weights(
        str(tmp_path),
        weight_name="lora.safetensors",
        transformer_lora_layers=peft.get_peft_model_state_dict(adapted, adapter_name="default_0"),
        transformer_lora_adapter_metadata={k: sorted(v) if isinstance(v, set) else v for k, v in config.items()},
    )
    adapted.fuse_lora(lora_scale=strength)
    expected, plain = expect(adapted), compute(denoiser)
    actual = compute(apply_lora(denoiser, path=tmp_path / "lora.safetensors", strength=strength).denoiser)
    difference_bounds.largest(actual, expected, 1e-4, f"u with a LoRA at {strength:g}")
    assert strength == 0 or (expected - plain).abs().max() > 0.05


def test_diffusers_reads_a_lora_that_was_trained_here(model: Any, denoiser: Denoiser, tmp_path: Path) -> None:
    trained = randomise_lora(denoiser)
    path = Path(save_lora(trained, path=tmp_path / "lora.safetensors", layout="peft"))
    expected = compute(merge_lora(trained))
    assert (expected - compute(denoiser)).abs().max() > 0.05
    difference_bounds.largest(compute(apply_lora(denoiser, path=path).denoiser), expected, 1e-4, "u with our LoRA")
    adapted = adapt_by_diffusers(model, diffusers.StableDiffusion3Pipeline, path)
    difference_bounds.largest(expect(adapted), expected, 1e-4, "u of diffusers with our LoRA")


def test_a_folder_of_peft_is_that_of_peft(model: Any, denoiser: Denoiser, tmp_path: Path) -> None:
    torch.manual_seed(8)
    config = peft.LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "add_v_proj"])
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    adapted.save_pretrained(str(tmp_path))
    expected = expect(adapted.merge_and_unload())
    assert (expected - compute(denoiser)).abs().max() > 0.05
    actual = compute(apply_lora(denoiser, path=tmp_path).denoiser)
    difference_bounds.largest(actual, expected, 1e-4, "u with a LoRA of peft")


@pytest.mark.parametrize(
    "rename", [underscore("lora_unet"), lambda name: f"diffusion_model.{name}"], ids=["kohya", "comfy"]
)
def test_a_lora_under_the_names_of_the_single_file_is_the_closed_form(
    rename: Callable[[str], str], model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    tensors = sd3_writer.single_file(model)
    linear = {name.removesuffix(".weight"): t for name, t in tensors.items() if name.endswith(".weight") and t.ndim > 1}
    factors = random_factors(linear)
    write_lora(factors, rename, tmp_path / "lora.safetensors")
    for name, weight in linear.items():
        tensors[f"{name}.weight"] = weight + 0.7 * factors[name].change(weight)
    actual = apply_lora(denoiser, path=tmp_path / "lora.safetensors", strength=0.7).denoiser
    state = actual.network.state_dict()  # type: ignore[attr-defined]
    assert len(linear) > 30
    for name, expected in tensors.items():
        torch.testing.assert_close(state[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["lora_transformer", "lora_unet"])
def test_a_kohya_file_under_the_names_of_diffusers_is_the_closed_form(
    prefix: str, model: Any, denoiser: Denoiser, tmp_path: Path
) -> None:
    changed = copy.deepcopy(model)
    layers = {name: m for name, m in changed.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(layers) <= set(sd3_layers(denoiser.config))  # type: ignore[attr-defined]
    factors = random_factors({name: layer.weight for name, layer in layers.items()})
    write_lora(factors, underscore(prefix), tmp_path / "lora.safetensors")
    for name, layer in layers.items():
        layer.weight += factors[name].change(layer.weight)
    actual = compute(apply_lora(denoiser, path=tmp_path / "lora.safetensors").denoiser)
    difference_bounds.largest(actual, expect(changed), 1e-4, "u with kohya's LoRA")


def test_a_lora_of_both_clip_encoders_is_that_of_peft_merged(tmp_path: Path) -> None:
    pipe = sd3_pipelines.pipeline("3", tmp_path, t5=False)
    pipe.save_pretrained(tmp_path / "folder")
    loaded = load_checkpoint(path=tmp_path / "folder")
    plain = loaded.text(["a b"])
    torch.manual_seed(9)
    file: dict[str, Tensor] = {}
    for name in ("text_encoder", "text_encoder_2"):
        config = peft.LoraConfig(r=3, lora_alpha=3, init_lora_weights=False, target_modules=["q_proj", "out_proj"])
        adapted = peft.get_peft_model(getattr(pipe, name), config)
        factors = peft.get_peft_model_state_dict(adapted)
        file |= {f"{name}.{key.removeprefix('base_model.model.')}": factor.clone() for key, factor in factors.items()}
        pipe.register_modules(**{name: adapted.merge_and_unload()})
    save_file(file, tmp_path / "lora.safetensors")
    tokens, _, vector, _ = pipe.encode_prompt(["a b"], None, None, do_classifier_free_guidance=False)
    condition = apply_lora(loaded.denoiser, loaded.text, path=tmp_path / "lora.safetensors").text(["a b"])
    difference_bounds.largest(condition.tokens, tokens.detach(), 1e-5, "text embeddings with a LoRA")
    difference_bounds.largest(condition.vector, vector.detach(), 1e-5, "pooled texts with a LoRA")
    assert plain.tokens is not None
    assert (tokens - plain.tokens).abs().max() > 0.05


def test_a_lora_with_layers_that_the_model_lacks_is_one_error(denoiser: Denoiser, tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.2.attn2.to_q"  # only the first two blocks have a second attention
    file = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_file(file, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.attn2\.to_q"):
        apply_lora(denoiser, path=tmp_path / "lora.safetensors")

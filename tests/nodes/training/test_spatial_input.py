"""denoiser.add_spatial_channels: predictions stay the same until the new channels are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.training.live_models import live_copy
from guidegraph.nodes.models.model_nodes import load_model, new_unet, save_model
from guidegraph.nodes.models.model_transformers import new_mmdit
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.training.lora import apply_lora, new_lora, save_lora
from guidegraph.nodes.training.spatial_input import add_spatial_channels
from guidegraph.nodes.types import Condition
from tests.nodes.guidance.test_hooks import random

CPU = torch.device("cpu")
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
MAP = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def unet(**settings: Any) -> Any:
    small = {"channels": 8, "multipliers": (1, 2), "attention": (1,), "heads": 1}
    return random(new_unet(**{**small, "context_dim": None, "vector_dim": None, **settings}))


def output(denoiser: Any, spatial: Tensor | None = None) -> Tensor:
    return predict(denoiser, X, torch.tensor([300.0]), Condition(spatial=spatial)).value


@pytest.mark.parametrize("patch", [1, 2])
def test_a_widened_model_predicts_the_same_whatever_the_condition(patch: int) -> None:
    before = unet(patch=patch)
    expected = output(before)
    widened = add_spatial_channels(before, channels=3)
    for condition in (MAP, 100 * MAP):
        torch.testing.assert_close(output(widened, condition), expected)
    assert before.config.spatial_channels == 0
    assert torch.equal(output(before), expected)


def test_an_earlier_condition_comes_first() -> None:
    before = unet(spatial_channels=2)
    widened = add_spatial_channels(before, channels=1)
    torch.testing.assert_close(output(widened, MAP), output(before, MAP[:, :2]))


def test_the_new_channels_learn() -> None:
    live: Any = live_copy(add_spatial_channels(unet(), channels=3), CPU).requires_grad_(True)
    before = output(live, MAP).detach()
    output(live, MAP).square().mean().backward()
    with torch.no_grad():
        live.network.stem.weight -= live.network.stem.weight.grad
    assert live.network.stem.weight[:, 4:].abs().sum() > 0
    assert not torch.allclose(output(live, MAP), before)


def test_other_tensors_are_shared_and_the_model_is_saved_and_loaded(tmp_path: Path) -> None:
    before = unet()
    widened: Any = add_spatial_channels(before, channels=3)
    assert widened.network.stem.bias is before.network.stem.bias
    assert widened.network.head.weight is before.network.head.weight
    save_model(denoiser=widened, path=tmp_path, dtype="float32")
    assert torch.equal(output(load_model(path=tmp_path).denoiser, MAP), output(widened, MAP))


def test_no_random_numbers_of_the_caller_are_taken() -> None:
    before, state = unet(), torch.get_rng_state()
    add_spatial_channels(before, channels=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_lora_of_a_widened_model_is_applied_to_one_widened_again(tmp_path: Path) -> None:
    base = unet()
    lora: Any = new_lora(add_spatial_channels(base, channels=3), rank=2, targets="all")
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lora.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_lora(lora, path=tmp_path / "lora.safetensors")
    adapted = apply_lora(add_spatial_channels(base, channels=3), path=tmp_path / "lora.safetensors").denoiser
    torch.testing.assert_close(output(adapted, MAP), output(lora, MAP))
    assert not torch.allclose(output(adapted, MAP), output(adapted, -MAP))


def test_other_networks_and_a_lora_are_refused() -> None:
    transformer = new_mmdit(in_channels=4, width=16, depth=1, heads=1, context_dim=8, vector_dim=8)
    with pytest.raises(ValueError, match="expected a U-Net"):
        add_spatial_channels(transformer, channels=1)
    with pytest.raises(ValueError, match="has a LoRA"):
        add_spatial_channels(new_lora(unet(), targets="all"), channels=1)

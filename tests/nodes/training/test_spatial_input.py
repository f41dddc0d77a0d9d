"""Added input channels: predictions stay the same until the new channels are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.training.trained_model import live_copy
from guidegraph.nodes.models.model_nodes import load_model, new_unet, save_model
from guidegraph.nodes.models.model_transformers import new_mmdit
from guidegraph.nodes.models.own.unet import COORDINATES, coordinate_channels
from guidegraph.nodes.sampling.denoiser import features, predict
from guidegraph.nodes.training.lora import apply_lora, new_lora, save_lora
from guidegraph.nodes.training.spatial_input import add_coordinates, add_spatial_channels
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


@pytest.mark.parametrize(("patch", "spatial"), [(1, 0), (2, 0), (2, 3)])
def test_a_model_with_added_coordinates_predicts_the_same(patch: int, spatial: int) -> None:
    before = unet(patch=patch, spatial_channels=spatial)
    condition = MAP if spatial else None
    located = add_coordinates(before)
    torch.testing.assert_close(output(located, condition), output(before, condition))
    assert add_coordinates(located) is located
    assert not before.config.coordinates
    further = add_spatial_channels(located, channels=3)
    widest = torch.cat([MAP[:, :spatial], MAP], dim=1)
    torch.testing.assert_close(output(further, widest), output(before, condition))


def test_coordinates_tell_equal_pixels_apart(tmp_path: Path) -> None:
    same = torch.ones(1, 4, 16, 16)

    def middle(denoiser: Any) -> Tensor:
        """The first features of the pixels that the padding does not reach, (C, N)."""
        values = features(denoiser, same, torch.tensor([300.0]), site="feature.down.0")
        return values[0, :, 1:-1, 1:-1].flatten(1)

    blind, located = unet(), unet(coordinates=True)
    assert (middle(blind) == middle(blind)[:, :1]).all()
    assert len(middle(located).T.unique(dim=0)) == 14 * 14
    save_model(denoiser=located, path=tmp_path, dtype="float32")
    assert torch.equal(output(load_model(path=tmp_path).denoiser), output(located))


def test_coordinates_are_those_of_pixel_centres() -> None:
    x = torch.zeros(2, 4, 4, 2, dtype=torch.float64)
    maps = coordinate_channels(x)
    assert maps.shape == (2, COORDINATES, 4, 2)
    rows, columns = torch.tensor([-0.75, -0.25, 0.25, 0.75]).double(), torch.tensor([-0.5, 0.5]).double()
    expected = [rows, (torch.pi * rows).sin(), (torch.pi * rows).cos()]
    for channel, values in enumerate(expected):
        torch.testing.assert_close(maps[1, channel], values[:, None].expand(4, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[0, 3], columns.expand(4, 2))
    assert maps.dtype == x.dtype


def test_coordinates_learn() -> None:
    live: Any = live_copy(add_coordinates(unet()), CPU).requires_grad_(True)
    before = output(live).detach()
    output(live).square().mean().backward()
    with torch.no_grad():
        live.network.stem.weight -= live.network.stem.weight.grad
    assert live.network.stem.weight[:, 4:].abs().sum() > 0
    assert not torch.allclose(output(live), before)


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

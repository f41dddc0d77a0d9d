"""The papers' Inception from a state dictionary, against plain convolutions; features of ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph.graph.types import RunsCode
from guidegraph.nodes.models.extractors.inception import InceptionLayer, load_inception, resize
from guidegraph.nodes.types import FeatureExtractor
from guidegraph_lab.metrics.features import efficientnet, extract_features, inception, onnx_features, torchscript
from plugins.lab.tests.metrics import inception_reference as reference


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return reference.random_weights()


@pytest.fixture(scope="module")
def path(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, with counts of batches, which are ignored."""
    file = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(weights | {"Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}, file)
    return file


def whole_numbers(batch: int, side: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (batch, 3, side, side))).float()


def to_image(pixels: Tensor) -> Tensor:
    return pixels / 127.5 - 1


def test_features_are_those_of_plain_convolutions(weights: dict[str, Tensor], path: Path) -> None:
    pixels = whole_numbers(1, 299)
    expected = reference.features(weights, pixels)
    layers: tuple[InceptionLayer, ...] = ("pooled", "logits", "spatial")
    for layer in layers:
        extractor = inception(path=path, layer=layer)
        assert isinstance(extractor, FeatureExtractor)
        actual = extract_features(extractor, to_image(pixels))
        assert actual.shape == (1, {"pooled": 2048, "logits": 1008, "spatial": 2023}[layer])
        torch.testing.assert_close(actual, expected[layer], rtol=1e-4, atol=1e-4)


def test_pictures_are_resized_as_tensorflow_1_does() -> None:
    for height, width in ((32, 32), (7, 11), (64, 20)):
        maps = whole_numbers(1, 64)[:, :, :height, :width]
        expected = torch.from_numpy(reference.resize_like_tensorflow_1(maps.double().numpy(), 40))
        torch.testing.assert_close(resize(maps.double(), 40), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(resize(maps, 40), expected.float(), rtol=0, atol=1e-3)
    maps = whole_numbers(1, 30)
    assert torch.equal(resize(maps, 30), maps)


def test_the_network_is_frozen_and_draws_nothing(path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = load_inception(path, "pooled")
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_safetensors_are_read_too(weights: dict[str, Tensor], path: Path, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "inception.safetensors")
    ours, theirs = (load_inception(file, "pooled").state_dict() for file in (tmp_path / "inception.safetensors", path))
    assert all(torch.equal(ours[name], theirs[name]) for name in weights)


def test_another_file_raises_with_the_expected_contents(weights: dict[str, Tensor], tmp_path: Path) -> None:
    few = {name: weights[name] for name in weights if not name.startswith("Mixed_7c")}
    torch.save(few, tmp_path / "few.pth")
    torch.save(weights | {"AuxLogits.fc.bias": torch.zeros(2)}, tmp_path / "more.pth")
    torch.save(weights | {"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "imagenet.pth")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    for name, message in {
        "few.pth": r"'Mixed_7c\.\S+' and \d+ others are missing",
        "more.pth": r"'AuxLogits\.fc\.bias' and 0 others are none of its weights",
        "imagenet.pth": r"'fc\.weight' has the shape \(1000, 2048\).*expected \(1008, 2048\)",
        "script.pt": r"TorchScript program.*published as a state dictionary",
        "none.pth": "there is no file",
    }.items():
        with pytest.raises(ValueError, match=message):
            inception(path=tmp_path / name)


def test_only_torchscript_is_marked_as_running_code() -> None:
    marks = {
        function: getattr(get_type_hints(function, include_extras=True)["path"], "__metadata__", ())
        for function in (torchscript, inception, onnx_features, efficientnet)
    }
    assert marks == {torchscript: (RunsCode(),), inception: (), onnx_features: (), efficientnet: ()}


MEANS = """
network (float[N, 3, H, W] pictures) => (float[N, 3] mean, float[N, 3, 1, 1] largest, float[N, 3, H, W] maps)
{
  mean = ReduceMean<axes = [2, 3], keepdims = 0>(pictures)
  largest = ReduceMax<axes = [2, 3], keepdims = 1>(pictures)
  maps = Identity(pictures)
}
"""
ONE_BY_ONE = """
network (uint8[1, 3, H, W] pictures) => (float[1, 3] sum)
{
  floats = Cast<to = 1>(pictures)
  sum = ReduceMean<axes = [2, 3], keepdims = 0>(floats)
}
"""


def write_onnx(path: Path, graph: str) -> Path:
    onnx.save(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]>' + graph), path)
    return path


def test_features_of_an_onnx_file_are_taken_by_name(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "means.onnx", MEANS)
    image = to_image(whole_numbers(3, 8))
    mean = onnx_features(path=file, range="0..1", output="mean", threads=1)
    assert isinstance(mean, FeatureExtractor)
    torch.testing.assert_close(extract_features(mean, image, chunk=2), (image.mean((2, 3)) + 1) / 2)
    largest = onnx_features(path=file, range="0..255", output="largest", size=4, threads=1)
    small = torch.nn.functional.interpolate(image, (4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(largest(image)[0], ((small + 1) * 127.5).round().clamp(0, 255).amax((2, 3)))
    alone = onnx_features(path=write_onnx(tmp_path / "one.onnx", ONE_BY_ONE), range="uint8", threads=1)
    torch.testing.assert_close(alone(image)[0], whole_numbers(3, 8).mean((2, 3)))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_graph_of_two_pictures_gives_one_row_for_each_of_any_number(tmp_path: Path, count: int) -> None:
    file = write_onnx(tmp_path / "two.onnx", ONE_BY_ONE.replace("[1, 3", "[2, 3"))
    pairs = onnx_features(path=file, range="uint8", threads=1)
    pictures = whole_numbers(count, 8)
    torch.testing.assert_close(pairs(to_image(pictures))[0], pictures.mean((2, 3)))


def test_an_onnx_file_that_gives_no_features_is_refused(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "means.onnx", MEANS)
    image = to_image(whole_numbers(2, 8))
    with pytest.raises(ValueError, match=r"gives mean, largest, maps: set `output`"):
        onnx_features(path=file, range="0..1")
    with pytest.raises(ValueError, match=r"no output 'men'.*mean"):
        onnx_features(path=file, range="0..1", output="men")
    with pytest.raises(ValueError, match=r"must give features \(B, D\).*'maps' has the shape \(2, 3, 8, 8\)"):
        onnx_features(path=file, range="0..1", output="maps")(image)
    with pytest.raises(ValueError, match="gives no gradient"):
        onnx_features(path=file, range="0..1", output="mean")(image.requires_grad_())
    with pytest.raises(ValueError, match=r"failed on torch\.float32 pictures of shape \(2, 2, 8, 8\)"):
        onnx_features(path=file, range="0..1", output="mean")(image.detach()[:, :2])
    with pytest.raises(ValueError, match="whole numbers: set `range` to uint8"):
        onnx_features(path=write_onnx(tmp_path / "one.onnx", ONE_BY_ONE), range="0..1")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ValueError, match="expected an ONNX graph"):
        onnx_features(path=tmp_path / "text.onnx", range="0..1")

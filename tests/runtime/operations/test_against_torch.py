"""The runtime's operations against torch: nodes that compute in torch themselves, pixels, maps and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph.graph.node import get_spec
from guidegraph.nodes.models.own.text_encoder import build_tokenizer, tokenize
from guidegraph.nodes.types import Schedule, Scheduler, SchedulerState
from guidegraph.plugins.builtin import guidegraph_nodes
from guidegraph_runtime.operations import OPERATIONS, schedule

NODES = {spec.id: spec for spec in map(get_spec, guidegraph_nodes())}
STRUCTURES = {"schedule": Schedule, "scheduler": Scheduler, "state": SchedulerState}
LINEAR = schedule.linear()


def as_torch(name: str, value: Any) -> Any:
    """An argument of an operation as that of its node."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if name in STRUCTURES and isinstance(value, Mapping):
        return STRUCTURES[name](**{field: as_torch(field, item) for field, item in value.items()})
    return value


def assert_same(engine: Any, runtime: Any) -> None:
    """The same values bit by bit, of the same dtype and shape."""
    assert isinstance(engine, torch.Tensor)
    assert isinstance(runtime, np.ndarray)
    assert runtime.dtype == engine.numpy().dtype
    np.testing.assert_array_equal(runtime, engine.numpy(), strict=True)


def compare(id: str, **arguments: Any) -> Any:
    """The result of an operation, which is the node's."""
    result = OPERATIONS[id](**arguments)["out"]
    assert_same(NODES[id].function(**{name: as_torch(name, value) for name, value in arguments.items()}), result)
    return result


def refusal(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """The message of a function that refuses its arguments; "" if it accepts them."""
    try:
        function(**arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_picture_is_noised_to_the_same_level(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x0, noise = (rng.standard_normal((batch, 4, 3, 5)).astype(dtype) for batch in (2, 1))
    sampler = OPERATIONS["scheduler.ddim"](schedule=LINEAR, steps=10, strength=0.5)
    noisy = compare("scheduler.add_noise", scheduler=sampler["scheduler"], x0=x0, noise=noise)
    assert noisy.dtype == (np.float64 if dtype == "float64" else np.float32)
    for row in (0, 3, 5):
        state = sampler["state"] | {"index": np.array([row])}
        compare("scheduler.add_noise", scheduler=sampler["scheduler"], x0=x0, noise=noise, state=state)
    assert np.array_equal(
        OPERATIONS["scheduler.add_noise"](scheduler=sampler["scheduler"], x0=x0, noise=noise, state=state)["out"], x0
    )


TIMES = np.array([0, 1, 250, 499, 500, 998, 999])
INTERVALS: list[dict[str, Any]] = [
    {},
    {"schedule": LINEAR, "low": 0.28, "high": 2.9},
    {"schedule": LINEAR, "low": 0.28},
    {"schedule": schedule.cosine(), "high": 1.5},
    {"schedule": schedule.flow(shift=3.0), "low": 0.2, "high": 0.5},
    {"schedule": schedule.edm(), "low": 0.5, "high": 5.0},
    {"low": 1, "high": 499},
]


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_guidance_acts_in_the_same_interval(interval: dict[str, Any], dtype: str) -> None:
    times = (TIMES + (0.37 if dtype == "float32" else 0)).clip(max=999).astype(dtype)
    node, run = NODES["guidance.interval"].function, OPERATIONS["guidance.interval"]
    for time in np.split(times, len(times)):
        arguments = {"t": time, "scale": 3.3, **interval}
        number = run(**arguments)["out"]
        assert number == node(**{name: as_torch(name, value) for name, value in arguments.items()})
        assert number in (1, 3.3)
    scales = compare("guidance.interval", t=times, scale=3.3, **interval)
    each = compare("guidance.interval", t=times, scale=np.arange(len(times), dtype=np.float32), **interval)
    assert np.array_equal(each[scales != 1], np.arange(len(times))[scales != 1])
    assert not interval or {*scales.tolist()} == {1, np.float32(3.3)}


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1, 1), (1, 1), (3, 2), (1, 4)])
def test_a_scale_for_each_sample_may_have_trailing_axes(shape: tuple[int, ...]) -> None:
    scale = np.linspace(2, 4, math.prod(shape), dtype=np.float32).reshape(shape)
    arguments = {"t": np.array([100, 500, 900]), "scale": scale, "low": 200.0}
    if all(size == 1 for size in shape[1:]):
        assert compare("guidance.interval", **arguments).shape == (3,)
        return
    message = refusal(OPERATIONS["guidance.interval"], arguments)
    assert "give one number, or a tensor (B)" in message
    engine = {name: as_torch(name, value) for name, value in arguments.items()}
    assert message == refusal(NODES["guidance.interval"].function, engine)


def test_an_interval_without_a_noise_level_is_refused() -> None:
    arguments = {"t": np.array([3]), "low": 2.0, "high": 1.0}
    message = refusal(OPERATIONS["guidance.interval"], arguments)
    assert "low must not be above high" in message
    assert message == refusal(NODES["guidance.interval"].function, arguments | {"t": torch.tensor([3])})


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": [4, 5, 3]},
        {"shape": [4, 5, 3], "seed": 7, "batch": 3},
        {"shape": [3, 2, 2], "seed": [5, 1, 2**64 - 1]},
        {"shape": [3, 1, 1], "seed": 2, "index": 0},
        {"shape": [3, 1, 1], "seed": 2, "index": 41, "batch": 2},
        {"like": np.zeros((2, 4, 3, 3), np.float32), "seed": 3, "shape": [9], "batch": 5},
        {"like": np.zeros((1, 4, 3, 3), np.float64), "index": 2, "batch": 3},
        {"like": np.zeros((1, 4, 3, 3), np.float16), "seed": [4, 9]},
    ],
)
def test_noise_is_the_nodes(arguments: dict[str, Any]) -> None:
    compare("noise.gaussian", **arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_and_sheets_are_the_nodes(dtype: type) -> None:
    rng = np.random.default_rng(1)
    samples = [(2 * rng.standard_normal((5, channels, 4, 3))).astype(dtype) for channels in (1, 3)]
    for sample in samples:
        image = compare("image.from_sample", sample=sample)
        assert np.abs(image).max() == 1
        compare("image.grid", image=image)
        compare("image.grid", image=image, columns=2, gap=0, background=-0.3)
        compare("image.grid", image=image[:1], columns=7, gap=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)).save(tmp_path / "RGB.png")
    Image.fromarray(rng.integers(0, 23, (16, 24), dtype=np.uint8)).save(tmp_path / "map.png")
    return tmp_path


def test_pixels_equal_those_of_torch(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "RGB.png"))
    expected = torch.tensor(pixels).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1
    assert_same(expected, OPERATIONS["image.load"](path=folder / "RGB.png")["out"])
    mask = ((expected.mean(1, keepdim=True) + 1) / 2 > 0.5).to(torch.float32)
    assert_same(mask, OPERATIONS["mask.load"](path=folder / "RGB.png")["out"])


@pytest.mark.parametrize("size", [None, 8, 16, 33, [5, 24], [48, 7]])
def test_maps_from_files_have_the_nearest_pixels(folder: Path, size: Any) -> None:
    arguments = {} if size is None else {"size": size}
    semantic = OPERATIONS["semantic.load"](path=folder / "map.png", **arguments)["out"]
    assert OPERATIONS["semantic.load"](path=folder / "map.png", classes=40, **arguments)["out"].shape[1] == 40
    indices = torch.tensor(np.asarray(Image.open(folder / "map.png")))[None, None].float()
    nearest = indices if size is None else torch.nn.functional.interpolate(indices, size, mode="nearest-exact")
    assert np.array_equal(semantic.argmax(1), nearest[:, 0].numpy())
    assert np.array_equal(semantic.sum(1), np.ones_like(semantic[:, 0]))


def test_a_centre_between_two_pixels_is_rounded_as_in_torch(tmp_path: Path) -> None:
    for source, target in ((2, 61), (2, 115), (4, 41), (4, 47), (7, 3), (11, 22), (100, 48)):
        Image.fromarray((np.arange(source, dtype=np.uint8) % 23)[:, None]).save(tmp_path / "map.png")
        semantic = OPERATIONS["semantic.load"](path=tmp_path / "map.png", size=[target, 1])["out"]
        indices = (torch.arange(source).float() % 23)[None, None, :, None]
        nearest = torch.nn.functional.interpolate(indices, (target, 1), mode="nearest-exact")
        assert np.array_equal(semantic.argmax(1), nearest[:, 0].numpy())


def test_tokens_equal_those_of_the_text_model() -> None:
    tokenizer = build_tokenizer(["a", "tiger", "on", "grass"], length=6)
    data = tokenizer.to_str().encode()
    texts = ["A tiger on grass", "", "a tiger, on on on on on"]
    ids, mask = tokenize(tokenizer, texts)
    with pytest.warns(UserWarning, match=r"words this model was not trained on: ','; it knows: a, grass, on, tiger"):
        result = OPERATIONS["text.tokenize"](texts=texts, tokenizer=data)
    assert list(result) == ["ids", "mask"]
    assert_same(ids, result["ids"])
    assert_same(mask, result["mask"])
    short = OPERATIONS["text.tokenize"](texts="a tiger on grass", tokenizer=data, length=3)
    assert short["ids"].tolist() == ids[:1, :3].tolist()
    long = OPERATIONS["text.tokenize"](texts="a tiger", tokenizer=data, length=8)
    assert long["mask"].tolist() == [[True] * 3 + [False] * 5]


def test_arrays_are_put_together_as_the_nodes_tensors() -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((batch, 3, 2), dtype=np.float32) for batch in (1, 2)]
    together = OPERATIONS["tensor.cat"](tensors=arrays)["out"]
    assert_same(NODES["tensor.cat"].function([torch.from_numpy(item) for item in arrays]), together)
    assert together.shape == (3, 3, 2)
    for arguments in ({"tensors": arrays, "axis": 1}, {"tensors": arrays, "axis": 3}, {"tensors": []}):
        tensors = {**arguments, "tensors": [torch.from_numpy(item) for item in arguments["tensors"]]}
        assert refusal(OPERATIONS["tensor.cat"], arguments) == refusal(NODES["tensor.cat"].function, tensors) != ""

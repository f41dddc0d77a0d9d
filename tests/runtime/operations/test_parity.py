"""The runtime's operations agree with the nodes declared `runtime=True`: same signatures, same values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph.graph.node import REQUIRED, NodeSpec, get_spec
from guidegraph.nodes.models.own.text_encoder import build_tokenizer, tokenize
from guidegraph.nodes.types import Schedule, Scheduler, SchedulerState
from guidegraph.plugins.builtin import guidegraph_nodes
from guidegraph_runtime import operations
from guidegraph_runtime.operations import OPERATIONS, schedule

NODES = {spec.id: spec for spec in map(get_spec, guidegraph_nodes())}
SHARED = sorted(id for id, spec in NODES.items() if spec.runtime)
SAMPLERS = [id for id in SHARED if id.startswith("scheduler.") and "steps" in NODES[id].settings]
DRAWS = ("ddim", "euler_ancestral", "dpm2_ancestral", "dpmpp_sde", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde")
STRUCTURES = {"schedule": Schedule, "scheduler": Scheduler, "state": SchedulerState}
SCHEDULES = {
    "linear": schedule.linear(),
    "scaled_linear": schedule.scaled_linear(),
    "short_cosine": schedule.cosine(train_steps=60),
    "zero_snr": schedule.zero_terminal_snr(schedule.scaled_linear()),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"steps": 7, "spacing": "trailing", "final": "first", "strength": 0.6},
    {"steps": 20, "sigmas": "karras", "clip": True, "threshold": 0.9},
    {"steps": 9, "spacing": "leading", "offset": 1, "sigmas": "exponential", "clip": 2, "rederive_eps": False},
    {"steps": 12, "spacing": "linspace", "eta": 0.5, "order": 1, "variant": "bh1", "warmup": "runge_kutta"},
    {"steps": 11, "variance": "fixed_large", "churn": 5, "s_min": 0.1, "s_max": 10.0, "s_noise": 1.01},
    {"steps": 11, "variance": "learned"},
    {"steps": 11, "solver_type": "heun", "lower_order_final": False, "euler_at_final": True, "combine": "v"},
    {"steps": 11, "threshold": 0.9, "threshold_max": 1.5, "original_steps": 100, "timestep_scaling": 5.0},
]


def as_torch(name: str, value: Any) -> Any:
    """An argument of an operation as that of its node."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if name in STRUCTURES and isinstance(value, Mapping):
        return STRUCTURES[name](**{field: as_torch(field, item) for field, item in value.items()})
    return value


def assert_same(engine: Any, runtime: Any) -> None:
    """The same values bit by bit, of the same dtype, shape and fields."""
    if isinstance(engine, torch.Tensor):
        assert isinstance(runtime, np.ndarray)
        assert runtime.dtype == engine.numpy().dtype
        np.testing.assert_array_equal(runtime, engine.numpy(), strict=True)
    elif is_dataclass(engine):
        assert list(runtime) == [field.name for field in fields(engine)]
        for name, value in runtime.items():
            assert_same(getattr(engine, name), value)
    else:
        assert type(runtime) is type(engine)
        assert runtime == engine


def compare(id: str, **arguments: Any) -> dict[str, Any]:
    """The outputs of an operation, which are the node's."""
    spec = NODES[id]
    result = spec.function(**{name: as_torch(name, value) for name, value in arguments.items()})
    outputs = result._asdict() if spec.named_outputs else {"out": result}
    results = OPERATIONS[id](**arguments)
    assert list(results) == list(spec.outputs) == list(outputs)
    for name, value in outputs.items():
        assert_same(value, results[name])
    return results


def refusal(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """The message of a function that refuses its arguments; "" if it accepts them."""
    try:
        function(**arguments)
    except ValueError as error:
        return str(error)
    return ""


def test_nodes_declare_the_operations_of_the_runtime() -> None:
    assert sorted(set(OPERATIONS) & set(NODES)) == SHARED
    assert set(OPERATIONS) - set(NODES) == {"text.chunks", "text.tokenize"}
    assert sum(id.startswith("scheduler.") for id in SAMPLERS) == len(operations.scheduler.SAMPLERS)


@pytest.mark.parametrize("spec", [NODES[id] for id in SHARED], ids=SHARED)
def test_an_operation_has_the_nodes_ports_settings_and_defaults(spec: NodeSpec) -> None:
    parameters = inspect.signature(OPERATIONS[spec.id]).parameters.values()
    kinds = {parameter.name: parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters}
    assert kinds == {port.name: port.setting for port in (*spec.inputs.values(), *spec.settings.values())}
    assert list(kinds) == [*spec.inputs, *spec.settings]
    for parameter in parameters:
        port = spec.port(parameter.name)
        assert port is not None
        assert (parameter.default is inspect.Parameter.empty) == (port.default is REQUIRED)
        assert type(parameter.default) is type(port.default)
        assert parameter.default == port.default


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("id", SAMPLERS)
def test_a_samplers_table_is_the_nodes(id: str, name: str) -> None:
    equal = 0
    for settings in SETTINGS:
        node_settings = {key: value for key, value in settings.items() if key in NODES[id].settings}
        if "eta" in node_settings and id.partition(".")[2] not in (*DRAWS, "tcd"):
            node_settings["eta"] = NODES[id].settings["eta"].default
        arguments = {"schedule": SCHEDULES[name], **node_settings}
        if message := refusal(NODES[id].function, {key: as_torch(key, value) for key, value in arguments.items()}):
            assert refusal(OPERATIONS[id], arguments) == message
        else:
            compare(id, **arguments)
            equal += 1
    assert equal >= 5


@pytest.mark.parametrize(
    ("id", "arguments"),
    [
        ("schedule.linear", {}),
        ("schedule.linear", {"train_steps": 60, "beta_start": 0.001, "beta_end": 0.3}),
        ("schedule.scaled_linear", {"train_steps": 30}),
        ("schedule.sigmoid", {"beta_end": 0.03}),
        ("schedule.cosine", {"train_steps": 100, "offset": 0.01, "beta_max": 0.99}),
        ("schedule.edm", {}),
        ("schedule.edm", {"train_steps": 60, "sigma_min": 0.01, "sigma_max": 500, "sigmas": "exponential"}),
        ("schedule.edm", {"rho": 3.0}),
        ("schedule.zero_terminal_snr", {"schedule": SCHEDULES["short_cosine"]}),
    ],
)
def test_schedules_are_the_nodes(id: str, arguments: dict[str, Any]) -> None:
    compare(id, **arguments)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_picture_is_noised_to_the_same_level(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x0, noise = (rng.standard_normal((batch, 4, 3, 5)).astype(dtype) for batch in (2, 1))
    sampler = OPERATIONS["scheduler.ddim"](schedule=SCHEDULES["linear"], steps=10, strength=0.5)
    noisy = compare("scheduler.add_noise", scheduler=sampler["scheduler"], x0=x0, noise=noise)["out"]
    assert noisy.dtype == (np.float64 if dtype == "float64" else np.float32)
    for row in (0, 3, 5):
        state = sampler["state"] | {"index": np.array([row])}
        compare("scheduler.add_noise", scheduler=sampler["scheduler"], x0=x0, noise=noise, state=state)
    assert np.array_equal(
        OPERATIONS["scheduler.add_noise"](scheduler=sampler["scheduler"], x0=x0, noise=noise, state=state)["out"], x0
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": [4, 5, 3]},
        {"shape": [4, 5, 3], "seed": 7, "batch": 3},
        {"shape": [3, 2], "seed": [5, 1, 2**64 - 1]},
        {"shape": [3], "seed": 2, "index": 0},
        {"shape": [3], "seed": 2, "index": 41, "batch": 2},
        {"like": np.zeros((2, 4, 3, 3), np.float32), "seed": 3, "shape": [9], "batch": 5},
        {"like": np.zeros((1, 4, 3, 3), np.float64), "index": 2, "batch": 3},
        {"like": np.zeros((1, 4, 3, 3), np.float16), "seed": [4, 9]},
    ],
)
def test_noise_is_the_nodes(arguments: dict[str, Any]) -> None:
    compare("noise.gaussian", **arguments)


@pytest.mark.parametrize(
    ("id", "arguments"),
    [
        ("label.constant", {"label": 3}),
        ("label.constant", {"label": 3, "batch": 4, "classes": 4}),
        ("label.constant", {"label": [0, 2**63 - 1], "batch": 2}),
        ("label.cycle", {"classes": 3, "batch": 8, "start": 2}),
        ("label.cycle", {"classes": 10}),
        ("mask.box", {}),
        ("mask.box", {"size": [6, 9], "top": 1, "left": 0, "height": 5, "width": 2}),
        ("text.replace", {"text": "A Night sky at night", "words": {"night": "day", "night sky": "dawn"}}),
        ("text.replace", {"text": ["a tiger", "tigers (2)"], "words": {"tiger": "cat", "(2)": "?"}}),
        ("text.replace", {"text": ["a", "b"], "words": {}}),
    ],
)
def test_labels_boxes_and_words_are_the_nodes(id: str, arguments: dict[str, Any]) -> None:
    compare(id, **arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_and_sheets_are_the_nodes(dtype: type) -> None:
    rng = np.random.default_rng(1)
    samples = [(2 * rng.standard_normal((5, channels, 4, 3))).astype(dtype) for channels in (1, 3)]
    for sample in samples:
        image = compare("image.from_sample", sample=sample)["out"]
        assert np.abs(image).max() == 1
        compare("image.grid", image=image)
        compare("image.grid", image=image, columns=2, gap=0, background=-0.3)
        compare("image.grid", image=image[:1], columns=7, gap=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    for mode, channels in (("L", ()), ("LA", (2,)), ("RGB", (3,)), ("RGBA", (4,))):
        pixels = rng.integers(0, 256, (17, 23, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{mode}.png")
    Image.fromarray(rng.integers(0, 2**16, (8, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.integers(0, 23, (16, 24), dtype=np.uint8)).save(tmp_path / "map.png")
    return tmp_path


@pytest.mark.parametrize("name", ["L.png", "LA.png", "RGB.png", "RGBA.png", "deep.png"])
def test_pictures_and_masks_from_files_are_the_nodes(folder: Path, name: str) -> None:
    for more in ({}, {"size": 12}, {"size": [30, 7], "resize": "pad"}, {"size": (5, 40), "resize": "stretch"}):
        compare("image.load", path=folder / name, **more)
    for more in ({}, {"size": 12}, {"threshold": 0.25}):
        compare("mask.load", path=folder / name, **more)


def test_pixels_equal_those_of_torch(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "RGB.png"))
    expected = torch.tensor(pixels).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1
    assert_same(expected, OPERATIONS["image.load"](path=folder / "RGB.png")["out"])
    mask = ((expected.mean(1, keepdim=True) + 1) / 2 > 0.5).to(torch.float32)
    assert_same(mask, OPERATIONS["mask.load"](path=folder / "RGB.png")["out"])


@pytest.mark.parametrize("size", [None, 8, 16, 33, [5, 24], [48, 7]])
def test_maps_from_files_are_the_nodes_and_the_nearest_pixels(folder: Path, size: Any) -> None:
    arguments = {} if size is None else {"size": size}
    semantic = compare("semantic.load", path=folder / "map.png", **arguments)["out"]
    assert compare("semantic.load", path=folder / "map.png", classes=40, **arguments)["out"].shape[1] == 40
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

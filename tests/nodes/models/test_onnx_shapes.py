"""onnx.denoiser on graphs of fixed sizes: runs sample by sample, or raises an error with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from guidegraph.nodes.models.onnx.onnx import onnx_denoiser
from guidegraph.nodes.sampling.schedule import edm
from guidegraph.nodes.types import Condition
from tests.nodes.models.foreign_graphs import HEAD, JOINED, RAW, draw, unet, unet_output, write
from tests.nodes.models.test_onnx_file import CONDITION, LABELS, TOKENS, UNET_INPUTS, X, load

PLAIN = {"x": "scaled", "t": "noise_level"}


def raw(tmp_path: Path, x: str = "float[N, 3, H, W]", t: str = "float[N]", **settings: Any) -> Any:
    text = RAW.replace("float[N, 3, H, W] scaled, float[N]", f"{x} scaled, {t}")
    return load(write(tmp_path / "raw.onnx", text), **({"inputs": PLAIN, "kind": "eps"} | settings))


def test_a_graph_of_one_sample_gets_the_condition_sample_by_sample(tmp_path: Path) -> None:
    path, t = write(tmp_path / "unet.onnx", unet(labels="int64[1]")), torch.tensor([20.0, 20.0])
    prediction = load(path, inputs=UNET_INPUTS, kind="eps")(X, t, CONDITION)
    torch.testing.assert_close(prediction.value, unet_output(X, t, TOKENS, LABELS))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("float[2, 3, 4, 6]", r"'scaled' has the shape 2 × 3 × 4 × 6, and x 3 × 3 × 4 × 6: draw 2 samples at a time"),
        ("float[N, 3, 8, 8]", r"\? × 3 × 8 × 8, and x 3 × 3 × 4 × 6: draw noise of that size \(`shape` of noise"),
        ("float[1, 3, 8, 8]", r"and x 1 × 3 × 4 × 6: draw noise of that size"),
    ],
)
def test_x_of_another_size_or_batch_is_refused_with_advice(tmp_path: Path, x: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raw(tmp_path, x)(draw(3, 3, 4, 6), torch.zeros(3), Condition())


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            Condition(LABELS, draw(2, 5, 7)),
            "'encoder_hidden_states' .*, and tokens 2 × 5 × 7: give tokens of that size",
        ),
        (Condition(LABELS, draw(2, 5)), "and tokens 2 × 5: give tokens with 3 axes"),
    ],
)
def test_a_condition_of_another_size_is_refused_with_advice(tmp_path: Path, condition: Condition, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "unet.onnx", unet()), inputs=UNET_INPUTS, kind="eps")(X, torch.zeros(2), condition)


def test_an_error_of_onnxruntime_is_a_value_error(tmp_path: Path) -> None:
    text = """
    network (float[N, 3, H, W] scaled, float[N] noise_level) => (float[N, 3, H, W] out)
    <int64[4] each = {-1, 3, 8, 8}>
    {
      out = Reshape(scaled, each)
    }
    """
    with pytest.raises(ValueError, match=r"raw\.onnx: "):
        load(write(tmp_path / "raw.onnx", text), inputs=PLAIN, kind="eps")(X[:1], torch.zeros(1), Condition())


def test_maps_of_one_input_have_one_size(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"constants": {"time_ids": 0, "scale": 0}, "kind": "eps", "outputs": {"value": "out"}}
    inputs = {"x": "sample", "spatial": "sample", "t": "timestep"}
    denoiser = load(write(tmp_path / "joined.onnx", JOINED), inputs=inputs, **settings)
    with pytest.raises(ValueError, match=r"'sample' is x and spatial .* 2 × 3 × 4 × 6 and 2 × 2 × 8 × 6: give both"):
        denoiser(X, torch.zeros(2), Condition(spatial=draw(2, 2, 8, 6)))


def test_an_embedding_of_t_is_refused_when_it_is_named(tmp_path: Path) -> None:
    text = """
    network (float[N, 3, H, W] scaled, float[N, 256] noise_level) => (float[N, 3, H, W] out)
    {
      out = Tanh(scaled)
    }
    """
    with pytest.raises(ValueError, match="'noise_level' has 256 numbers for each sample, an embedding of t"):
        load(write(tmp_path / "raw.onnx", text), inputs=PLAIN, kind="eps")


@pytest.mark.parametrize("t", [float("inf"), float("nan")])
def test_integer_times_must_be_finite_integers(tmp_path: Path, t: float) -> None:
    denoiser = load(write(tmp_path / "unet.onnx", unet()), inputs=UNET_INPUTS, kind="eps")
    with pytest.raises(ValueError, match=f"takes int64, and t has {t:g}"):
        denoiser(X, torch.full((2,), t), CONDITION)


def test_an_unused_field_of_the_condition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the condition has tokens, .*: name it under `inputs`, or leave it out of"):
        raw(tmp_path)(X, torch.zeros(2), Condition(tokens=TOKENS))


def test_a_graph_is_not_traced_into_another_one(tmp_path: Path) -> None:
    denoiser = raw(tmp_path)
    with FakeTensorMode(), pytest.raises(ValueError, match="is a graph already, and cannot be traced into another"):
        denoiser(torch.zeros(2, 3, 4, 6), torch.zeros(2), Condition())


def test_halves_of_an_output_are_twice_the_channels(tmp_path: Path) -> None:
    denoiser = raw(tmp_path, outputs={"value": "out", "variance": "out"})
    with pytest.raises(ValueError, match=r"'out' is named as value and as variance, .* twice the 3 channels"):
        denoiser(X, torch.zeros(2), Condition())
    scalar = (
        HEAD
        + """
    network (float[N, 3, H, W] scaled, float[N] noise_level) => (float out)
    {
      out = ReduceSum<keepdims = 0>(scaled)
    }
    """
    )
    path = write(tmp_path / "scalar.onnx", scalar)
    denoiser = load(path, inputs=PLAIN, kind="eps", outputs={"value": "out", "variance": "out"})
    with pytest.raises(ValueError, match=r"twice the 3 channels of x, and has the shape \(\)"):
        denoiser(X, torch.zeros(2), Condition())


def test_a_raw_edm_network_of_kind_x0_is_refused_as_it_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "raw.onnx", RAW)
    with pytest.raises(ValueError, match=r"predicts x0, which a raw network cannot"):
        onnx_denoiser(edm(), path=path, edm="raw", kind="x0", inputs=PLAIN, provider="cpu")

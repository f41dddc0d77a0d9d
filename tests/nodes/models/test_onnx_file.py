"""onnx.denoiser on files of other software, with other names, shapes and dtypes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.paths import ROOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from guidegraph import load_workflow
from guidegraph.nodes.conditioning.condition import vector_condition
from guidegraph.nodes.models.onnx.onnx import onnx_denoiser
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph.nodes.sampling.schedule import edm
from guidegraph.nodes.types import Condition, Prediction
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions.graph_file import open_graph_file
from tests.nodes.models.foreign_graphs import (
    CLASSES,
    FUSED,
    HEAD,
    JOINED,
    RAW,
    WEIGHTED,
    draw,
    unet,
    unet_output,
    write,
)

UNET_INPUTS = {"x": "sample", "t": "timestep", "tokens": "encoder_hidden_states", "vector": "class_labels"}
X, TOKENS, LABELS = draw(2, 3, 4, 6), draw(2, 5, 8, seed=1), torch.tensor([[3.0], [7.0]])
CONDITION = Condition(vector=LABELS, tokens=TOKENS)


def load(path: Path, **settings: Any) -> Any:
    return onnx_denoiser(path=path, provider="cpu", threads=1, **settings)


# --- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", ["int64[N]", "int32[N, 1]", "float[N]", "double", "float16[1]", "int64"])
@pytest.mark.parametrize("labels", ["int64[N]", "int32[N, 1]", "float[N]"])
def test_times_and_labels_take_the_dtype_and_axes_that_the_graph_declares(
    tmp_path: Path, timestep: str, labels: str
) -> None:
    path = write(tmp_path / "unet.onnx", unet(timestep=timestep, labels=labels))
    denoiser, t = load(path, inputs=UNET_INPUTS, kind="eps"), torch.tensor([999.0, 999.0])
    actual = denoiser(X, t, CONDITION)
    assert actual.kind == "eps"
    torch.testing.assert_close(actual.value, unet_output(X, t, TOKENS, LABELS))


@pytest.mark.parametrize("timestep", ["int64[N]", "int64", "float[1]"])
def test_each_sample_of_a_batch_gets_its_own_time(tmp_path: Path, timestep: str) -> None:
    path, t = write(tmp_path / "unet.onnx", unet(timestep=timestep)), torch.tensor([20.0, 970.0])
    actual = load(path, inputs=UNET_INPUTS, kind="v")(X, t, CONDITION)
    torch.testing.assert_close(actual.value, unet_output(X, t, TOKENS, LABELS))


def test_a_graph_of_one_sample_draws_a_batch(tmp_path: Path) -> None:
    path, t = write(tmp_path / "unet.onnx", unet(sample="float[1, 3, 4, 6]")), torch.tensor([20.0, 20.0])
    actual = load(path, inputs=UNET_INPUTS, kind="eps")(X, t, CONDITION)
    torch.testing.assert_close(actual.value, unet_output(X, t, TOKENS, LABELS))


def test_a_spatial_condition_shares_the_input_of_x_and_halves_of_an_output_are_prediction_and_variance(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "joined.onnx", JOINED)
    denoiser = load(
        path,
        inputs={"spatial": "sample", "t": "timestep", "x": "sample"},
        outputs={"value": "out", "variance": "out"},
        constants={"time_ids": [1, 2, 3, 4, 5, 6], "scale": 0.5},
        kind="x0",
    )
    spatial = draw(2, 2, 4, 6, seed=2).double()
    actual = denoiser(X, torch.zeros(2), Condition(spatial=spatial))
    shift = 2 * 21 + 0.5  # both samples' ids
    torch.testing.assert_close(actual.value, X + shift)
    torch.testing.assert_close(actual.variance, spatial.float()[:, [1, 0, 0]] + shift)


def test_float64_goes_in_and_comes_out(tmp_path: Path) -> None:
    path, t = write(tmp_path / "unet.onnx", unet()), torch.tensor([5.0, 6.0])
    actual = load(path, inputs=UNET_INPUTS, kind="eps")(X.double(), t, CONDITION)
    assert actual.value.dtype == torch.float64
    torch.testing.assert_close(actual.value.float(), unet_output(X, t, TOKENS, LABELS))


@pytest.mark.parametrize("kind", [None, "eps", "v"])
def test_a_raw_edm_network_is_the_same_as_one_in_torch(tmp_path: Path, kind: Any) -> None:
    path, t = write(tmp_path / "raw.onnx", RAW), torch.tensor([0.0, 733.25])

    def network(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        return Prediction(x.tanh() + t.reshape(-1, 1, 1, 1), kind or "eps")

    settings: dict[str, Any] = {"inputs": {"x": "scaled", "t": "noise_level"}, "kind": kind}
    denoiser = onnx_denoiser(edm(), path=path, edm="raw", sigma_data=0.7, provider="cpu", **settings)
    actual = denoiser(X, t, Condition())
    expected = precondition(network, edm(), sigma_data=0.7)(X, t, Condition())
    assert actual.kind == "x0"
    torch.testing.assert_close(actual.value, expected.value, rtol=1e-5, atol=1e-6)


def test_a_folder_holds_a_graph_and_its_weights(tmp_path: Path) -> None:
    write(tmp_path / "unet" / "model.onnx", WEIGHTED, weights="model.onnx_data")
    (tmp_path / "unet" / "config.json").write_text("{}")
    denoiser = load(tmp_path / "unet", inputs={"x": "x", "t": "t"}, kind="eps")
    scale = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    torch.testing.assert_close(denoiser(X, torch.zeros(2), Condition()).value, X * scale)
    files = [tmp_path / "unet" / name for name in ("model.onnx", "model.onnx_data")]
    assert denoiser.nbytes == sum(file.stat().st_size for file in files)


def test_unused_operator_sets_are_ignored(tmp_path: Path) -> None:
    head = HEAD.replace('"": 17', '"": 17, "pkg.onnxscript.torch_lib": 1')
    path = write(tmp_path / "raw.onnx", head + RAW)
    actual = load(path, inputs={"x": "scaled", "t": "noise_level"}, kind="eps")(X, torch.ones(2), Condition())
    torch.testing.assert_close(actual.value, X.tanh() + 1)


@pytest.mark.slow
def test_a_unet_of_diffusers_that_torch_exported_gives_its_numbers(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> Any:
            return self.network(sample, timestep, states, return_dict=False)[0]

    (tmp_path / "unet").mkdir()
    x, t, tokens = draw(3, 4, 8, 8), torch.tensor([5.0, 500.0, 999.0]), draw(3, 7, 8, seed=1)
    torch.onnx.export(
        Exported().eval(),
        (x[:2], t[:2].long(), tokens[:2]),
        str(tmp_path / "unet" / "model.onnx"),
        input_names=["sample", "timestep", "encoder_hidden_states"],
        output_names=["out_sample"],
        dynamic_shapes={"sample": {0: "batch"}, "timestep": {0: "batch"}, "states": {0: "batch", 1: "tokens"}},
        external_data=True,
        verbose=False,
    )
    assert len([*(tmp_path / "unet").iterdir()]) == 2
    inputs = {"x": "sample", "t": "timestep", "tokens": "encoder_hidden_states"}
    actual = load(tmp_path / "unet", inputs=inputs, kind="eps")(x, t, Condition(tokens=tokens)).value
    with torch.no_grad():
        torch.testing.assert_close(actual, network(x, t, tokens).sample, rtol=1e-4, atol=1e-5)


WORKFLOW = """
guidegraph: 1
params:
  path: {type: Path}
  label: {default: 3, type: int}
nodes:
  schedule:  {use: schedule.scaled_linear}
  denoiser:
    use: onnx.denoiser
    in: {path: params.path}
    with:
      inputs: {x: sample, t: timestep, tokens: encoder_hidden_states, vector: class_labels}
      kind: eps
      threads: 1
  label:     {use: label.constant, in: {label: params.label}}
  vector:    {use: condition.vector, in: {values: label}}
  words:     {use: noise.gaussian, with: {shape: [1, 5, 8], seed: 3}}
  text:      {use: test.tokens, in: {values: words}}
  condition: {use: condition.merge, in: {conditions: [vector, text]}}
  noise:     {use: noise.gaussian, with: {shape: [3, 4, 6], batch: 2}}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}, with: {steps: 3}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      predict: {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t, condition: condition}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: predict, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""
PLUGIN = '''
from guidegraph import Condition, hookimpl, node
from guidegraph.graph.types import Tensor

@node("test.tokens")
def tokens(values: Tensor) -> Condition:
    """Values as tokens."""
    return Condition(tokens=values[:, 0])

@hookimpl
def guidegraph_nodes():
    return [tokens]
'''


def test_a_workflow_maps_the_names_of_the_graph(tmp_path: Path) -> None:
    path = write(tmp_path / "unet.onnx", unet())
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    workflow = load_workflow(tmp_path / "draw.yaml", plugins=[str(tmp_path / "plugin.py")], cache=None)
    actual, other = (workflow.run(path=path, label=label)["x"] for label in (3, 4))
    assert actual.shape == (2, 3, 4, 6)
    assert actual.isfinite().all()
    assert not torch.allclose(actual, other)


def test_the_workflow_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "do" / "onnx.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(guidegraph: 1\n.*?)```", page, re.DOTALL)
    (tmp_path / "draw.yaml").write_text(text)
    workflow = load_workflow(tmp_path / "draw.yaml", cache=None)
    path = write(tmp_path / "classes.onnx", CLASSES)
    actual, other = (workflow.run(path=path, label=label, steps=2, batch=2)["image"] for label in (207, [208, 1]))
    assert actual.shape == (2, 3, 64, 64)
    assert not torch.allclose(actual, other)


# --- numbers as a condition ------------------------------------------------------------------------------------------


def test_numbers_and_labels_become_a_vector() -> None:
    assert vector_condition(number=0.25).vector.tolist() == [[0.25]]  # type: ignore[union-attr]
    assert vector_condition(number=[1.0, 2.0]).vector.tolist() == [[1.0], [2.0]]  # type: ignore[union-attr]
    labels = vector_condition(torch.tensor([4, 5])).vector
    assert labels is not None
    assert (labels.tolist(), labels.dtype) == ([[4.0], [5.0]], torch.float32)
    wide = draw(2, 7)
    assert vector_condition(wide).vector is wide
    with pytest.raises(ValueError, match="either values or a number"):
        vector_condition()
    with pytest.raises(ValueError, match=r"\(B\) or \(B, D\); found shape \(2, 3, 4, 6\)"):
        vector_condition(X)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"which of its inputs takes x and t: set `inputs: {x: NAME, t: NAME}`. It takes sample \(float32, \? × "),
        ({"inputs": {"x": "sampel", "t": "timestep"}}, "it has no input 'sampel'; did you mean 'sample'"),
        (
            {"inputs": {"x": "sample", "t": "timestep", "tokens": "encoder_hidden_states"}},
            "'class_labels' .* as vector",
        ),
        (
            {"inputs": UNET_INPUTS | {"tokens": "class_labels"}},
            "named for vector and tokens: only x and spatial",
        ),
        (
            {"inputs": {"x": "sample", "t": "timestep", "vector": "class_labels"}},
            "'encoder_hidden_states' takes: name it under `inputs` as tokens, or give it a number",
        ),
        ({"inputs": UNET_INPUTS | {"spatial": "timestep"}}, "named for t and spatial: only x and spatial can share"),
        (
            {"inputs": UNET_INPUTS, "constants": {"timestep": 3}},
            "'timestep' takes t, and has a number in `constants` too",
        ),
        (
            {"inputs": UNET_INPUTS, "outputs": {"value": "sample"}},
            "it has no output 'sample'; did you mean 'out_sample'",
        ),
        ({"inputs": UNET_INPUTS, "outputs": {"variance": "out_sample"}}, "which of its outputs is the prediction"),
        ({"inputs": UNET_INPUTS}, "nothing says what it predicts: set `kind` to eps, x0 or v"),
        ({"inputs": UNET_INPUTS, "edm": "raw"}, "an EDM model needs a schedule"),
    ],
)
def test_unsuitable_settings_are_refused_with_the_names_of_the_graph(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "unet.onnx", unet()), **settings)


def test_inputs_with_the_wrong_number_of_axes_are_refused(tmp_path: Path) -> None:
    inputs = UNET_INPUTS | {"x": "encoder_hidden_states", "tokens": "sample"}
    with pytest.raises(ValueError, match="'encoder_hidden_states' has 3 axes; x has 4"):
        load(write(tmp_path / "unet.onnx", unet()), inputs=inputs, kind="eps")


@pytest.mark.parametrize(
    ("t", "condition", "message"),
    [
        (7.5, CONDITION, "'timestep' takes int64, and t has 7.5: choose levels at whole timesteps"),
        (7.0, Condition(LABELS + 0.25, TOKENS), "'class_labels' takes int64, and vector has 3.25: give whole numbers"),
        (7.0, Condition(draw(2, 4), TOKENS), "'class_labels' is one number for each sample, .* vector has 4"),
        (7.0, Condition(vector=LABELS), "this denoiser takes tokens in its condition, and got none"),
        (7.0, Condition(LABELS, TOKENS, spatial=X), "condition has spatial, and nothing says which input"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(tmp_path: Path, t: float, condition: Condition, message: str) -> None:
    denoiser = load(write(tmp_path / "unet.onnx", unet()), inputs=UNET_INPUTS, kind="eps")
    with pytest.raises(ValueError, match=message):
        denoiser(X, torch.full((2,), t), condition)


def test_an_output_of_another_shape_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"constants": {"time_ids": 0, "scale": 0}, "kind": "eps", "outputs": {"value": "out"}}
    denoiser = load(
        write(tmp_path / "joined.onnx", JOINED),
        inputs={"x": "sample", "spatial": "sample", "t": "timestep"},
        **settings,
    )
    with pytest.raises(ValueError, match=r"output has the shape \(2, 6, 4, 6\), and x \(2, 3, 4, 6\): .* as variance"):
        denoiser(X, torch.zeros(2), Condition(spatial=draw(2, 2, 4, 6)))


def test_constants_that_do_not_fill_an_input_are_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "constants": {"time_ids": [1, 2], "scale": 0},
        "kind": "eps",
        "outputs": {"value": "other"},
    }
    denoiser = load(write(tmp_path / "joined.onnx", JOINED), inputs={"x": "sample", "t": "timestep"}, **settings)
    with pytest.raises(
        ValueError, match=r"'time_ids' has the shape \? × 6, which \[1.*\] in `constants` does not fill"
    ):
        denoiser(draw(2, 5, 4, 6), torch.zeros(2), Condition())


def test_incomplete_files_and_custom_operators_are_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "model.onnx", WEIGHTED, weights="model.onnx_data")
    refusals = {
        outside: f"expected all weights in the file, found some in 'model.onnx_data'; give the folder '{tmp_path}'",
        tmp_path / "nowhere.onnx": "found nothing; check the path",
        write(tmp_path / "fused" / "fused.onnx", FUSED): "found 'QuickGelu' of the domain 'com.microsoft'",
        tmp_path / "fused": "found 'QuickGelu'",
    }
    (tmp_path / "text.onnx").write_text("no graph at all")
    (tmp_path / "weights.bin").write_bytes(b"")
    refusals[tmp_path / "text.onnx"] = "expected an ONNX graph, found"
    refusals[tmp_path / "weights.bin"] = "expected an .onnx file or a folder with one, found 'weights.bin'"
    refusals[tmp_path] = "expected one .onnx file in the folder, found 'model.onnx', 'text.onnx'"
    for path, message in refusals.items():
        with pytest.raises(BundleError) as error:
            open_graph_file(path)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="found nothing; check the path"):
        load(tmp_path / "nowhere.onnx", kind="eps")


def test_weights_outside_of_the_folder_or_truncated_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "away" / "model.onnx", WEIGHTED, weights="weights.bin")
    (tmp_path / "away" / "weights.bin").write_bytes(bytes(8))
    with pytest.raises(
        BundleError, match=r"at most the 8 bytes of 'weights\.bin', found the weights 'w' up to byte 12"
    ):
        open_graph_file(tmp_path / "away")
    file.write_bytes(file.read_bytes().replace(b"weights.bin", b"../away.bin"))
    with pytest.raises(BundleError, match=r"not one that leaves it by '\.\.', found '\.\./away\.bin'"):
        open_graph_file(tmp_path / "away")


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_links_and_special_files_in_a_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    write(folder / "model.onnx", WEIGHTED, weights="weights.bin")
    (folder / name).rename(outside)
    if kind == "link":
        (folder / name).symlink_to(outside)
    elif kind == "hard link":
        os.link(outside, folder / name)
    else:
        os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=rf"{name}.*(found a link|2 hard links|found a folder or a device);") as error:
        open_graph_file(folder)
    assert error.value.code == "bad-file"


def test_a_file_may_be_named_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(write(tmp_path / "away" / "raw.onnx", RAW))
    assert open_graph_file(tmp_path / "link.onnx").session.part.inputs[0].name == "scaled"


def test_limits_are_checked_before_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "raw.onnx", RAW)
    with pytest.raises(BundleError, match="expected at most 10 bytes, found"):
        open_graph_file(path, max_bytes=10)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(BundleError, match="expected a file, found a folder or a device"):
        open_graph_file(tmp_path / "pipe.onnx")

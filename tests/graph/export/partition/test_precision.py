"""Bundles in other precisions than float32, and with their weights in files of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from guidegraph import load_workflow
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.one_node import export_call
from guidegraph.graph.export.partition.precision import cast_models, parse_precisions
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.bundle.verify import open_bundle
from tests.commands.command import Command, environment
from tests.graph.export.test_one_node import NODES, TORCH

pytestmark = pytest.mark.slow

STEPS = """
guidegraph: 1
params: {seed: 0}
nodes:
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 8, 8]}}
  image: {use: image.from_sample, in: {sample: noise}}
outputs: {image: image}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The small denoiser in every precision."""
    file = tmp_path_factory.mktemp("precision") / "torch.yaml"
    file.write_text(TORCH)
    workflow = load_workflow(file, plugins=[NODES])
    values = workflow.bind({})
    return {
        name: export_call(workflow.graph, values, "denoiser", precision={"": name})
        for name in ("fp32", "fp16", "bf16", "int8")
    }


def written(exported: Exported, folder: Path) -> Path:
    kinds = dict.fromkeys(exported.outputs, "tensor")
    write_bundle(exported, folder / "bundle", kinds=kinds, versions={"guidegraph": "0"})
    return folder / "bundle"


def inputs(exported: Exported) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {}
    for item in exported.parts[0].plan.inputs:
        shape = (2, *item.example.shape[1:])
        given[item.name] = torch.rand(shape) * 900 if item.name == "t" else torch.randn(shape).to(item.example.dtype)
    return given


def error(exported: Exported, bundle: Bundle) -> float:
    """The largest |difference| to torch in float32, over the largest |value|."""
    given = inputs(exported)
    with torch.no_grad():
        expected = exported.parts[0].plan.function(*given.values())
    actual = bundle.run(**{name: tensor.numpy() for name, tensor in given.items()})
    pairs = [(actual[name], item.numpy()) for name, item in zip(exported.outputs, expected, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize(("name", "least", "most"), [("fp32", 0, 1e-5), ("fp16", 1e-5, 5e-3), ("int8", 1e-5, 3e-2)])
def test_a_precision_is_near_torchs_float32(
    exported: dict[str, Exported], tmp_path: Path, name: str, least: float, most: float
) -> None:
    bundle = Bundle(written(exported[name], tmp_path), SessionSettings.on("cpu"))
    assert least <= error(exported[name], bundle) <= most
    (part,) = bundle.manifest.parts.values()
    assert {item.dtype for item in (*part.inputs, *part.outputs)} == {"float32", "bool"}
    assert bundle.manifest.requires.providers == ()


def test_half_the_bytes_and_a_quarter_of_those_of_products(exported: dict[str, Exported]) -> None:
    sizes = {name: item.parts[0].traced.weight_bytes for name, item in exported.items()}
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["bf16"] < 0.55 * sizes["fp32"]
    assert 0.25 * sizes["fp32"] < sizes["int8"] < 0.95 * sizes["fp32"]
    kinds = {name: {node.op_type for node in item.parts[0].traced.model.graph} for name, item in exported.items()}
    assert "DequantizeLinear" in kinds["int8"]
    assert "DequantizeLinear" not in kinds["fp32"]


def test_8_bit_weights_use_standard_operators_alone_and_leave_convolutions(exported: dict[str, Exported]) -> None:
    graph = exported["int8"].parts[0].traced.model.graph
    assert {node.domain for node in graph} <= {"", "ai.onnx"}
    convolutions = [node for node in graph if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        weight: Any = node.inputs[1]
        assert weight.const_value.numpy().dtype == np.float32


def test_bfloat16_says_where_it_runs_and_is_refused_on_a_cpu(exported: dict[str, Exported], tmp_path: Path) -> None:
    path = written(exported["bf16"], tmp_path)
    assert open_bundle(path).manifest.requires.providers == ("cuda", "tensorrt")
    given = {name: tensor.numpy() for name, tensor in inputs(exported["bf16"]).items()}
    with pytest.raises(BundleError, match="no-provider: expected one of the providers cuda, tensorrt, found cpu"):
        Bundle(path, SessionSettings.on("cpu")).run(**given)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_weights_in_a_file_of_their_own_are_verified_and_run(
    exported: dict[str, Exported], tmp_path: Path, name: str
) -> None:
    path = written(exported[name], tmp_path)
    assert (path / "denoiser.onnx").stat().st_size < (path / "denoiser.onnx.data").stat().st_size
    bundle = Bundle(path, SessionSettings.on("cpu"))
    assert bundle.manifest.parts["denoiser"].externals == ("denoiser.onnx.data",)
    assert error(exported[name], bundle) <= (1e-5 if name == "fp32" else 3e-2)
    data = bytearray((path / "denoiser.onnx.data").read_bytes())
    data[100] ^= 1
    (path / "denoiser.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match="the file was changed"):
        Bundle(path, SessionSettings.on("cpu"))


def test_the_models_of_a_run_are_not_cast(exported: dict[str, Exported]) -> None:
    model = torch.nn.Linear(2, 2)
    cast = cast_models({"a": model, "b": (model, 3), "c": "text"}, torch.float16)
    assert model.weight.dtype == torch.float32
    assert cast["a"].weight.dtype == torch.float16
    assert cast["b"] == (cast["a"], 3)
    assert cast["c"] == "text"


def test_the_command_casts_steps_alone_and_prints_the_errors(tmp_path: Path) -> None:
    (tmp_path / "torch.yaml").write_text(TORCH)
    command = ["export", "torch.yaml", "-o", "bundle", "--precision", "fp16", "--check", "--plugin", NODES]
    done = subprocess.run(
        [sys.executable, "-m", "guidegraph", *command], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    notes = [line for line in done.stderr.splitlines() if not line.startswith("importing the plugin")]  # said if slow
    assert (done.returncode, notes) == (0, [])
    assert re.search(r"^part sample\.step: free axes .*; \d+.* of weights in fp16; ", done.stdout, re.MULTILINE)
    assert re.search(r"^part decode: free axes [^;]*; [^;]*(?<! in fp16); ", done.stdout, re.MULTILINE)
    (error,) = re.findall(r"^sample\.step +sample\.body\.step\.x +(\S+)", done.stdout, re.MULTILINE)
    assert 1e-6 < float(error) < 0.05
    assert re.search(r"^image +\d+\.\d+/255 of at most 8/255$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp8"], "--precision: unknown-precision: there is no precision 'fp8'; precisions: fp32, fp16"),
        (["--precision", "fp16"], "fp16 is for parts in loops, and there is none; name a part: PART=fp16"),
        (
            ["--precision", "decode=fp16"],
            "--precision: unknown-precision: there is no part 'decode'; there are no parts",
        ),
        (["--precision", "bf16", "--check"], "--check: no-check: bf16 runs on cuda or tensorrt only"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(cli: Command, arguments: list[str], message: str) -> None:
    result = cli("export", cli.workflow("steps.yaml", STEPS), "-o", "bundle", *arguments)
    assert result.code == 2
    assert message in result.err
    assert not (cli.folder / "bundle").exists()


def test_precisions_are_read_by_part() -> None:
    assert parse_precisions(["fp16", "decode=int8"]) == {"": "fp16", "decode": "int8"}
    with pytest.raises(ValueError, match="'int8' asks for another precision than 'fp16'"):
        parse_precisions(["fp16", "int8"])

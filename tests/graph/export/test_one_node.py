"""A denoiser exported alone: as a bundle, from the command line, and as a node of the engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from guidegraph import Condition, load_workflow
from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.one_node import export_call
from guidegraph.nodes.models.onnx.denoiser import run_arrays, run_on_device
from guidegraph.nodes.models.onnx.onnx import onnx_denoiser
from guidegraph.nodes.sampling.denoiser import expand_condition
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph.nodes.sampling.schedule import edm
from guidegraph_runtime import Bundle, BundleError, SessionSettings
from tests.commands.command import ROOT, Command, Result, environment
from tests.graph.export import small_denoiser

pytestmark = pytest.mark.slow

NODES = str(Path(small_denoiser.__file__))
HEAD = """
guidegraph: 1
params:
  scale: 3.0
  seed: 1
  batch: 2
"""
REST = """
  schedule:  {use: schedule.linear}
  scheduler: {use: scheduler.ddpm, in: {schedule: schedule}, with: {steps: 4, clip: false}}
  positive:  {use: small.condition, with: {seed: 1}}
  negative:  {use: small.condition, with: {seed: 2}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [3, 8, 12]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond:   {use: denoiser.predict, in: {denoiser: model, x: carry.x, t: loop.t, condition: positive}}
      uncond: {use: denoiser.predict, in: {denoiser: model, x: carry.x, t: loop.t, condition: negative}}
      cfg:    {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}
      guided: {use: guidance.rescale, in: {guided: cfg, cond: cond}}
      fresh:  {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t, noise: fresh}
    next: {x: step.x, state: step.state}
  decoded: {use: small.decode, in: {x: sample.x}}
  image: {use: image.from_sample, in: {sample: decoded}}
outputs: {image: image}
"""
TORCH = f"{HEAD}nodes:\n  model: {{use: small.denoiser}}{REST}"
ONNX = f"{HEAD}  path: {{type: Path}}\nnodes:\n  model: {{use: onnx.denoiser, in: {{path: params.path}}}}{REST}"
PULL = """
      pull:   {use: small.pull, in: {denoiser: model, x: carry.x, t: loop.t, condition: positive, schedule: schedule}}
"""


@dataclass(frozen=True)
class Made:
    folder: Path
    bundle: Path
    out: str

    def inputs(self, batch: int = 3, height: int = 6, width: int = 10, tokens: int = 4) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(0)
        mask = np.ones((batch, tokens), bool)
        mask[1:, 2:] = False
        return {
            "x": draw.standard_normal((batch, 3, height, width)).astype(np.float32),
            "t": draw.uniform(0, 999, batch).astype(np.float32),
            "tokens": draw.standard_normal((batch, tokens, 32)).astype(np.float32),
            "mask": mask,
        }


def drop_import_notes(text: str) -> str:
    """The output of a command without the notes of slow imports, which it writes on a busy machine."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("importing the plugin"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "torch.yaml").write_text(TORCH)
    (folder / "onnx.yaml").write_text(ONNX)
    command = ["export", "torch.yaml", "-o", "denoiser", "--only", "denoiser", "--plugin", NODES, "--check"]
    done = subprocess.run(
        [sys.executable, "-m", "guidegraph", *command], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, drop_import_notes(done.stderr)) == (0, "")
    return Made(folder, folder / "denoiser", done.stdout)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


def export(cli: Command, *arguments: str) -> Result:
    return cli("export", cli.workflow("torch.yaml", TORCH), "-o", "bundle", "--plugin", NODES, *arguments)


def expected(inputs: dict[str, np.ndarray]) -> Any:
    x, t, tokens, mask = (torch.from_numpy(inputs[name]) for name in ("x", "t", "tokens", "mask"))
    with torch.no_grad():
        model: Any = small_denoiser.denoiser()
        return model.eval()(x, t, Condition(tokens=tokens, mask=mask))


def relative(found: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max())


# --- the bundle ------------------------------------------------------------------------------------------------------


def test_the_denoiser_alone_has_named_tensors_with_free_axes(made: Made) -> None:
    found = json.loads((made.bundle / "bundle.json").read_text())
    assert {name: (item["dtype"], item["dims"]) for name, item in found["inputs"].items()} == {
        "x": ("float32", ["batch", 3, "height", "width"]),
        "t": ("float32", ["batch"]),
        "tokens": ("float32", ["batch", "tokens", 32]),
        "mask": ("bool", ["batch", "tokens"]),
    }
    assert [*found["outputs"]] == ["value", "variance"]
    (operation,) = found["plan"]
    assert operation["with"] == {"call": "denoiser.predict", "fixed": {"kind": "v"}, "honours_mask": True}
    assert found["fixed"]["seed"] == "only nodes.sample.body.cond was exported"
    axes = "batch, height (multiples of 2), width (multiples of 2), tokens"
    assert re.search(rf"^part denoiser: free axes {re.escape(axes)}; ", made.out, re.MULTILINE)
    assert max(map(float, re.findall(r"^denoiser +\w+ +(\S+) +\S+$", made.out, re.MULTILINE))) < 1e-4


def test_it_gives_the_networks_numbers_at_other_sizes(made: Made) -> None:
    bundle, inputs = Bundle(made.bundle, SessionSettings.on("cpu")), made.inputs()
    found, wanted = bundle.run(**inputs), expected(inputs)
    assert relative(found["value"], wanted.value) < 1e-5
    assert relative(found["variance"], wanted.variance) < 1e-5
    alone = bundle.run(**{**inputs, "t": inputs["t"][:1].astype(np.float64)})  # one for all, cast
    same = expected({**inputs, "t": np.repeat(inputs["t"][:1], 3)})
    assert relative(alone["value"], same.value) < 1e-5


def test_edm_preconditioning_goes_into_the_graph(cli: Command) -> None:
    text = TORCH.replace("  model: {use: small.denoiser}", "  raw: {use: small.denoiser}")
    text = text.replace(
        "  schedule:  {use: schedule.linear}",
        "  schedule:  {use: schedule.edm}\n"
        "  model: {use: denoiser.edm, in: {denoiser: raw, schedule: schedule}, with: {sigma_data: 0.7}}",
    )
    result = cli("export", cli.workflow("edm.yaml", text), "-o", "bundle", "--plugin", NODES, "--only", "denoiser")
    assert (result.code, drop_import_notes(result.err)) == (0, "")
    x, t, condition = torch.randn(3, 3, 6, 10), torch.tensor([0.0, 411.5, 999.0]), small_denoiser.condition()
    condition = expand_condition(condition, 3)
    exported, model = onnx_denoiser(path=cli.folder / "bundle", provider="cpu"), small_denoiser.denoiser()
    with torch.no_grad():
        expected = precondition(model.eval(), edm(), sigma_data=0.7)(x, t, condition)  # type: ignore[attr-defined]
        found = exported(x, t, condition)
    assert found.kind == expected.kind == "x0"
    assert relative(found.value, expected.value) < 1e-5


def test_files_are_tensors_on_the_command_line_of_the_runtime(made: Made, tmp_path: Path) -> None:
    inputs = made.inputs()
    settings = []
    for name in ("x", "t"):
        np.save(tmp_path / f"{name}.npy", inputs[name])
        settings += ["--set", f"{name}={tmp_path / name}.npy"]
    save_file({"tokens": inputs["tokens"], "mask": inputs["mask"]}, tmp_path / "text.safetensors")
    settings += ["--set", f"tokens={tmp_path}/text.safetensors", "--set", f"mask={tmp_path}/text.safetensors"]
    run = [sys.executable, "-m", "guidegraph_runtime", str(made.bundle), *settings, "--out", str(tmp_path / "out")]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert relative(load_file(tmp_path / "out" / "value.safetensors")["value"], expected(inputs).value) < 1e-5


def test_it_carries_a_run_to_repeat(made: Made) -> None:
    run = [sys.executable, "-m", "guidegraph_runtime", str(made.bundle), "--verify"]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert len(re.findall(r"^(?:value|variance): ok, ", done.stdout, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda x: x[:, :2], r"'x': expected a tensor \(batch, 3, height, width\), found \(3, 2, 6, 10\)"),
        ("x", lambda x: x.astype(complex), "'x': expected a tensor of dtype float32, found complex128"),
        ("t", lambda t: 500.0, "'t': expected an array, or a .npy or .safetensors file, found float"),
        ("t", lambda t: "nowhere.npy", "'t': 'nowhere.npy' cannot be read: No such file"),
        ("t", lambda t: b"words", "'t': its bytes is neither .npy nor .safetensors"),
        ("tokens", lambda tokens: tokens[:2], "'tokens' is for 2 samples and 'x' makes 3: give one for all samples"),
    ],
)
def test_what_is_no_such_tensor_is_named(made: Made, name: str, change: Any, message: str) -> None:
    inputs: dict[str, Any] = made.inputs()
    with pytest.raises(BundleError, match=message):
        Bundle(made.bundle, SessionSettings.on("cpu")).run(**{**inputs, name: change(inputs[name])})


# --- which call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image2", "--only: unknown-output: there is no output 'image2'"),
        ("model", "--only: unknown-output: there is no output 'model'"),
        ("scheduler", "--only: unknown-output: there is no output 'scheduler'"),
    ],
)
def test_a_name_that_means_no_call_is_refused(cli: Command, name: str, message: str) -> None:
    result = export(cli, "--only", name)
    assert result.code == 2
    assert result.err.startswith(message)
    assert not (cli.folder / "bundle").exists()


def test_a_name_that_means_several_calls_lists_them(cli: Command) -> None:
    text = TORCH.replace("  noise: ", "  other: {use: small.denoiser}\n  noise: ")
    text = re.sub(r"(uncond: .use: denoiser.predict, in: .denoiser: )model", r"\1other", text)
    result = cli("export", cli.workflow("two.yaml", text), "-o", "bundle", "--plugin", NODES, "--only", "denoiser")
    assert result.code == 2
    assert "'denoiser' names 2 nodes: sample.body.cond, sample.body.uncond; give one of these" in result.err


def test_a_node_by_its_place_keeps_its_numbers_as_inputs(cli: Command) -> None:
    assert export(cli, "--only", "sample.body.cfg", "--no-reference").code == 0
    bundle = Bundle(cli.folder / "bundle", SessionSettings.on("cpu"))
    assert bundle.manifest.inputs["scale"].default == 3.0
    assert [*bundle.manifest.inputs] == [
        "cond_value", "cond_variance", "uncond_value", "uncond_variance", "scale"
    ]  # fmt: skip
    item, two = (np.full((2, 3, 4, 4), value, np.float32) for value in (1.0, 2.0))
    found = bundle.run(cond_value=two, cond_variance=two, uncond_value=item, uncond_variance=item, scale=5.0)
    assert np.array_equal(found["value"], np.full((2, 3, 4, 4), 6.0, np.float32))
    assert np.array_equal(found["variance"], two)


# --- in the engine ---------------------------------------------------------------------------------------------------


def both(made: Made, **params: Any) -> tuple[Any, Any]:
    """The engine's picture with torch's denoiser and with the exported one."""
    found = []
    for name, more in (("torch.yaml", {}), ("onnx.yaml", {"path": made.bundle})):
        found.append(load_workflow(made.folder / name, plugins=[NODES], cache=None).run(**params, **more)["image"])
    return found[0], found[1]


@pytest.mark.parametrize("params", [{}, {"scale": 1.0, "batch": 1}, {"batch": 3, "seed": 7}])
def test_guidance_around_an_exported_denoiser_draws_the_same_picture(made: Made, params: dict[str, Any]) -> None:
    wanted, found = both(made, **params)
    assert wanted.std() > 0.1
    assert float((wanted - found).abs().max()) <= 1e-4
    assert float((wanted - found).abs().max()) * 127.5 <= 2


def test_what_is_given_in_another_dtype_comes_back_in_it(made: Made) -> None:
    denoiser, inputs = onnx_denoiser(path=made.bundle, provider="cpu"), made.inputs()
    wanted = expected(inputs)
    x, t, tokens, mask = (torch.from_numpy(inputs[name]) for name in ("x", "t", "tokens", "mask"))
    for dtype, error in ((torch.float64, 1e-5), (torch.bfloat16, 2e-2)):
        found = denoiser(x.to(dtype), t, Condition(tokens=tokens.to(dtype), mask=mask))
        assert (found.value.dtype, found.variance.dtype, found.kind) == (dtype, dtype, "v")  # type: ignore[union-attr]
        assert relative(found.value.float(), wanted.value) < error


def test_tensors_are_shared_with_onnxruntime_and_not_copied(made: Made) -> None:
    session = onnx_denoiser(path=made.bundle).session  # type: ignore[attr-defined]
    inputs = {name: torch.from_numpy(array) for name, array in made.inputs().items()}
    bound: list[int] = []
    kept = session.onnxruntime.OrtValue.from_dlpack

    class Watched:
        @staticmethod
        def from_dlpack(tensor: Any) -> Any:
            value = kept(tensor)
            bound.append(value._ortvalue.data_ptr())
            return value

    session.onnxruntime = type("Runtime", (), vars(session.onnxruntime) | {"OrtValue": Watched})
    actual, expected = run_on_device(session, inputs), run_arrays(session, inputs)
    assert bound == [tensor.data_ptr() for tensor in inputs.values()]
    assert all(torch.equal(actual[name], expected[name]) for name in ("value", "variance"))


def test_a_gradient_through_it_is_refused(made: Made) -> None:
    text = ONNX.replace("      cfg: ", f"{PULL[1:]}      cfg: ").replace(
        "prediction: guided,", "prediction: guided, score: pull,"
    )
    (made.folder / "pull.yaml").write_text(text)
    (made.folder / "pull_torch.yaml").write_text(
        text.replace("onnx.denoiser, in: {path: params.path}", "small.denoiser")
    )
    image = load_workflow(made.folder / "pull_torch.yaml", plugins=[NODES]).run(path=made.bundle)["image"]
    assert image.isfinite().all()
    with pytest.raises(NodeError, match=r"sample\.body\.pull .*an exported denoiser gives no gradient"):
        load_workflow(made.folder / "pull.yaml", plugins=[NODES]).run(path=made.bundle)
    with torch.no_grad():  # where none is asked for, it does not matter whether x could have one
        x = torch.zeros(1, 3, 4, 4, requires_grad=True)
        onnx_denoiser(path=made.bundle)(x, torch.zeros(1), small_denoiser.condition())


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Condition(), "this denoiser takes tokens in its condition, and got none"),
        (Condition(tokens=torch.zeros(1, 2, 32)), "this denoiser takes mask in its condition, and got none"),
        (
            Condition(vector=torch.zeros(1, 4), tokens=torch.zeros(1, 2, 32), mask=torch.ones(1, 2, dtype=torch.bool)),
            "exported with a condition of mask, tokens, and got one with vector",
        ),
    ],
)
def test_another_condition_is_refused(made: Made, condition: Condition, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        onnx_denoiser(path=made.bundle)(torch.zeros(1, 3, 4, 4), torch.zeros(1), condition)


def test_other_bundles_and_missing_providers_are_refused(made: Made, cli: Command) -> None:
    assert export(cli, "--only", "sample.body.cfg", "--no-reference").code == 0
    with pytest.raises(
        ValueError, match=r"is a bundle of guidance\.cfg: write that of a denoiser with guidegraph export"
    ):
        onnx_denoiser(path=cli.folder / "bundle")
    with pytest.raises(ValueError, match="no-provider: expected tensorrt, but"):
        onnx_denoiser(path=made.bundle, provider="tensorrt")
    with pytest.raises(ValueError, match=r"expected an \.onnx file or the folder of a bundle, found nothing"):
        onnx_denoiser(path=cli.folder / "nowhere")


def test_the_workflow_that_ships_with_it_draws_the_pictures_of_the_embedded_model(tmp_path: Path) -> None:
    torchs, shipped = (load_workflow(ROOT / "workflows" / f"text_to_image{name}.yaml") for name in ("", "_onnx"))
    with pytest.raises(WorkflowError, match="'denoiser'"):
        shipped.run()
    exported = export_call(torchs.graph, torchs.bind({}), "denoiser")
    write_bundle(exported, tmp_path / "denoiser", kinds={"value": "tensor"}, versions={"guidegraph": "0"})
    given: dict[str, Any] = {"steps": 4, "batch": 2, "seed": 3}
    wanted, found = torchs.run(**given)["image"], shipped.run(**given, denoiser=tmp_path / "denoiser")["image"]
    assert float((wanted - found).abs().max()) * 127.5 <= 2
    assert float((wanted - found).abs().max()) <= 1e-3

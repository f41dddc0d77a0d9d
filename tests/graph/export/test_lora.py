"""LoRA on exported graphs, without a new export, against lora.apply in the engine."""

from __future__ import annotations

import json
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
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from guidegraph import Condition, load_workflow
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.one_node import export_call
from guidegraph.graph.export.workflow import export_workflow
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.training.lora import apply_lora
from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.lora.apply import _bfloat16
from guidegraph_runtime.lora.lora_files import read_loras
from guidegraph_runtime.running.tensor_inputs import read_safetensors
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.diffusers.loras import Lora
from tests.commands.command import environment

pytestmark = pytest.mark.slow

UNET = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  model:  {use: checkpoint.load, in: {path: params.path}}
  x:      {use: noise.gaussian, with: {shape: [4, 8, 8]}}
  words:  {use: text.encode, in: {embedder: model.text}, with: {prompt: "a b"}}
  times:  {use: scheduler.ddim, in: {schedule: model.schedule}, with: {steps: 2}}
  sample:
    loop: {over: times.steps, as: t}
    carry: {x: x}
    body:
      eps: {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: words}}
    next: {x: carry.x}
outputs: {x: sample.x}
"""
TEXT = """
guidegraph: 1
params: {path: {type: Path}, prompt: "a b"}
nodes:
  model:    {use: checkpoint.load, in: {path: params.path}}
  words:    {use: text.encode, in: {embedder: model.text, prompt: params.prompt}}
  tokens:   {use: lora_test.tokens, in: {condition: words}}
outputs: {tokens: tokens}
"""
PLUGIN = '''
from guidegraph import Condition, Tensor, hookimpl, node

@node("lora_test.tokens")
def tokens(condition: Condition) -> Tensor:
    """The tokens of a condition."""
    return condition.tokens

@hookimpl
def guidegraph_nodes():
    return [tokens]
'''


@dataclass(frozen=True)
class Made:
    folder: Path
    pipe: Any

    def bundle(self, name: str) -> Bundle:
        return Bundle(self.folder / name, SessionSettings.on("cpu"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lora")
    pipe = pipelines.pipeline("sd1", folder)
    pipe.save_pretrained(folder / "model")
    (folder / "plugin.py").write_text(PLUGIN)
    joined = TEXT.replace("tokens: tokens}", "tokens: sum}")
    for name, text in (("unet", UNET), ("text", TEXT), ("siblings", joined), ("fixed", joined)):
        if text is joined:
            use = "text.encode" if name == "siblings" else "text.weighted"
            text = text.replace(
                "outputs:",
                f"  fixed:    {{use: {use}, in: {{embedder: model.text}}, with: {{prompt: b}}}}\n"
                "  others:   {use: lora_test.tokens, in: {condition: fixed}}\n"
                "  sum:      {use: tensor.cat, in: {tensors: [tokens, others]}, with: {axis: 1}}\noutputs:",
            )
        (folder / f"{name}.yaml").write_text(text)
        workflow = load_workflow(folder / f"{name}.yaml", plugins=[str(folder / "plugin.py")])
        values = workflow.bind({"path": folder / "model"})
        if name == "unet":
            exported = export_call(workflow.graph, values, "denoiser")
        else:
            exported = export_workflow(workflow.graph, values)
        kinds = dict.fromkeys(exported.outputs, "tensor")
        write_bundle(exported, folder / f"{name}.bundle", kinds=kinds, versions={"guidegraph": "0"})
    return Made(folder, pipe)


def inputs(batch: int = 2) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "x": draw.standard_normal((batch, 4, 16, 8)).astype(np.float32),
        "t": np.full(batch, 300, np.float32),
        "tokens": draw.standard_normal((batch, 7, 64)).astype(np.float32),
    }


def engine(made: Made, files: list[tuple[Path, float]]) -> Any:
    denoiser = load_checkpoint(path=made.folder / "model").denoiser
    for path, strength in files:
        denoiser = apply_lora(denoiser, path=path, strength=strength).denoiser
    x, t, tokens = (torch.from_numpy(inputs()[name]) for name in ("x", "t", "tokens"))
    with torch.no_grad():
        return denoiser(x, t, Condition(tokens=tokens)).value.numpy()


def relative(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def named(made: Made) -> dict[str, Any]:
    """Inputs of the U-Net's bundle, which takes what else its text encoder gives and does not use it."""
    taken = made.bundle("unet.bundle").manifest.inputs
    unused = {"mask": np.ones((2, 7), bool), "vector": np.zeros((2, 64), np.float32)}
    return {**inputs(), **{name: array for name, array in unused.items() if name in taken}}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("layout", ["kohya", "peft", "before_peft"])
def test_a_lora_of_the_unet_is_that_of_the_engine(made: Made, tmp_path: Path, layout: str, strength: float) -> None:
    path = getattr(Lora(made.pipe, ("unet",)), layout)(tmp_path / "lora.safetensors")
    wanted, plain = engine(made, [(path, strength)]), engine(made, [])
    bundle = made.bundle("unet.bundle")
    assert relative(bundle.run_with(named(made), lora=f"{path}:{strength}")["value"], wanted) <= 1e-4
    assert relative(bundle.run_with(named(made))["value"], plain) <= 1e-4  # the next run is without it
    assert (relative(wanted, plain) > 0.05) == (strength > 0)


GUIDED = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  model:  {use: checkpoint.load, in: {path: params.path}}
  x:      {use: noise.gaussian, with: {shape: [4, 8, 8]}}
  words:  {use: text.encode, in: {embedder: model.text}, with: {prompt: "a b"}}
  empty:  {use: text.encode, in: {embedder: model.text}, with: {prompt: ""}}
  ddim:   {use: scheduler.ddim, in: {schedule: model.schedule}, with: {steps: 4}}
  sample:
    loop: {over: ddim.steps, as: t}
    carry: {x: x, state: ddim.state}
    body:
      scale:  {use: guidance.interval, in: {t: loop.t}, with: {scale: 3.0, low: LOW}}
      cond:   {use: denoiser.predict, in: {denoiser: DENOISER, x: carry.x, t: loop.t, condition: words}}
      uncond: {use: denoiser.predict, in: {denoiser: DENOISER, x: carry.x, t: loop.t, condition: empty}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: scale}}
      step:
        use: scheduler.step
        in: {scheduler: ddim.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""


@pytest.mark.parametrize("low", [0, 500, 2000])
def test_a_lora_changes_the_steps_with_and_without_guidance(made: Made, tmp_path: Path, low: int) -> None:
    text, file = GUIDED.replace("LOW", str(low)), tmp_path / "workflow.yaml"
    lora = Lora(made.pipe, ("unet",)).kohya(tmp_path / "lora.safetensors")
    changed = f"  changed: {{use: lora.apply, in: {{denoiser: model.denoiser}}, with: {{path: {lora}}}}}\n  x: "
    results: dict[str, Any] = {}
    for name, written in (("changed", text.replace("  x: ", changed, 1)), ("model", text)):
        file.write_text(written.replace("DENOISER", f"{name}.denoiser"))
        workflow = load_workflow(file)
        results[name] = workflow.run(path=made.folder / "model")["x"].numpy()
    exported = export_workflow(workflow.graph, workflow.bind({"path": made.folder / "model"}))
    write_bundle(exported, tmp_path / "bundle", kinds={"x": "tensor"}, versions={"guidegraph": "0"})
    bundle = Bundle(tmp_path / "bundle", SessionSettings.on("cpu"))
    assert "sample.step.short" in bundle.manifest.parts
    assert relative(bundle.run_with({}, lora=lora)["x"], results["changed"]) <= 1e-4
    assert relative(bundle.run()["x"], results["model"]) <= 1e-4
    assert relative(results["changed"], results["model"]) > 0.05


def test_loras_of_any_rank_add_up(made: Made, tmp_path: Path) -> None:
    small = Lora(made.pipe, ("unet",), 1, lambda name, number: (1, 2.0)).kohya(tmp_path / "1.safetensors")
    large = Lora(made.pipe, ("unet",), 2, lambda name, number: (24, 2.0)).kohya(tmp_path / "2.safetensors")
    arguments = [(small, 0.7), (large, -0.4)]
    assert (
        relative(made.bundle("unet.bundle").run_with(named(made), lora=arguments)["value"], engine(made, arguments))
        <= 1e-4
    )


def test_a_lora_of_the_text_encoder_is_that_of_the_engine(made: Made, tmp_path: Path) -> None:
    path = Lora(made.pipe, ("text_encoder",)).peft(tmp_path / "text.safetensors", metadata=True)
    loaded: Any = load_checkpoint(path=made.folder / "model")
    text: Any = apply_lora(loaded.denoiser, loaded.text, path=path, strength=0.5).text
    with torch.no_grad():
        wanted, plain = text(["c d"]).tokens, loaded.text(["c d"]).tokens
    found = made.bundle("text.bundle").run_with({"prompt": "c d"}, lora=(path, 0.5))["tokens"]
    assert relative(found, wanted.numpy()) <= 1e-4
    assert relative(wanted.numpy(), plain.numpy()) > 0.05


def test_a_constant_prompt_beside_an_input_is_encoded_with_the_lora(made: Made, tmp_path: Path) -> None:
    path = Lora(made.pipe, ("text_encoder",)).peft(tmp_path / "text.safetensors")
    loaded: Any = load_checkpoint(path=made.folder / "model")
    with torch.no_grad():
        expected, plain = (
            torch.cat([text(["c d"]).tokens, text(["b"]).tokens], dim=1)
            for text in (apply_lora(loaded.denoiser, loaded.text, path=path).text, loaded.text)
        )
    actual = made.bundle("siblings.bundle").run_with({"prompt": "c d"}, lora=path)["tokens"]
    assert relative(actual, expected.numpy()) <= 1e-4
    assert relative(expected.numpy()[:, 77:], plain.numpy()[:, 77:]) > 0.05


def test_what_was_computed_at_export_is_not_left_as_it_was(made: Made, tmp_path: Path) -> None:
    path = Lora(made.pipe, ("text_encoder",)).peft(tmp_path / "text.safetensors")
    bundle = made.bundle("fixed.bundle")
    with pytest.raises(BundleError, match=r"is fixed in this bundle: nodes\.fixed was computed with it at export"):
        bundle.run_with({}, lora=path)


def test_the_command_takes_it_and_the_record_says_so(made: Made, tmp_path: Path) -> None:
    path = Lora(made.pipe, ("unet",)).kohya(tmp_path / "lora.safetensors")
    settings = []
    for name, array in named(made).items():
        np.save(tmp_path / f"{name}.npy", array)
        settings += ["--set", f"{name}={tmp_path / name}.npy"]
    alone = "import sys\nfor name in ('torch', 'guidegraph', 'onnx'): sys.modules[name] = None\n"
    alone += "from guidegraph_runtime.cli import main\nmain(sys.argv[1:])"
    command = [str(made.folder / "unet.bundle"), *settings, "--lora", f"{path}:0.5", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", alone, *command], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "out" / "value.safetensors")["value"]
    assert relative(found, engine(made, [(path, 0.5)])) <= 1e-4
    assert json.loads((tmp_path / "out" / "run.json").read_text())["lora"] == [f"{path}:0.5"]


def test_files_that_do_not_fit_change_nothing(made: Made, tmp_path: Path) -> None:
    bundle, path = made.bundle("unet.bundle"), tmp_path / "lora.safetensors"
    whole = load_file(Lora(made.pipe, ("unet",)).kohya(path))
    other = {"lora_unet_no.lora_down.weight": np.zeros((1, 2)), "lora_unet_no.lora_up.weight": np.zeros((2, 1))}
    cases: list[tuple[dict[str, Any], str]] = [
        (other, r"is for another model, or for a part that is not in this bundle: 1 of its \d+ .*\(lora_unet_no\)"),
        ({"lora_unet_conv_in.hada_w1_a": np.zeros((1, 2))}, "its layers are of kind LoHa"),
        ({"lora_unet_conv_in.lora_up.weight": np.zeros((7, 4, 1, 1))}, "do not make a weight"),
    ]  # fmt: skip
    for more, message in cases:
        save_file({**whole, **more}, path)
        with pytest.raises(BundleError, match=message):
            bundle.run_with(named(made), lora=path)
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        bundle.run_with(named(made), lora=tmp_path / "nowhere.safetensors")
    (tmp_path / "lora.pt").write_bytes(b"pickle")
    with pytest.raises(BundleError, match=r"is not a \.safetensors file, the only supported format"):
        bundle.run_with(named(made), lora=tmp_path / "lora.pt")
    assert relative(bundle.run_with(named(made))["value"], engine(made, [])) <= 1e-4


def test_bfloat16_is_read_and_rounded_as_torch_does(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save

    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 100
    save({"a": values.bfloat16()}, tmp_path / "a.safetensors")
    found = read_safetensors((tmp_path / "a.safetensors").read_bytes())["a"]
    assert np.array_equal(found, values.bfloat16().float().numpy())
    stored = _bfloat16(values.numpy())
    assert np.array_equal(stored.view(np.int16), values.bfloat16().view(torch.int16).numpy())


def test_a_colon_gives_the_strength(made: Made, tmp_path: Path) -> None:
    path = Lora(made.pipe, ("unet",)).kohya(tmp_path / "a:b.safetensors")
    assert [(item.path, item.strength) for item in read_loras([path, f"{path}:0.25"], "")] == [
        (path, 1.0),
        (path, 0.25),
    ]

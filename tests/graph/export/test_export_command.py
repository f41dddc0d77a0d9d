"""`guidegraph export` and the bundle that it writes, as a person uses them."""

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
from PIL import Image

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.bundle.preview import draw_preview
from guidegraph_runtime.noise import gaussian
from tests.commands.command import ROOT, Command, Result, environment

NODES = str(Path(__file__).with_name("tiny_nodes.py"))
WORKFLOW = ROOT / "workflows" / "text_to_image.yaml"
ALONE = """
import sys
for name in ("torch", "guidegraph", "onnx", "onnxscript"):
    sys.modules[name] = None
from guidegraph_runtime.cli import main
main(sys.argv[1:])
"""
TINY = """
guidegraph: 1
params:
  seed: 0
  by: {default: 2.0, help: "how much"}
  name: half
nodes:
  noise:  {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 8, 8]}}
  weight: {use: tiny.weight, in: {name: params.name}}
  times:  {use: tiny.times, in: {x: noise, weight: weight, by: params.by}}
  image:  {use: image.from_sample, in: {sample: times}}
outputs: {image: image}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUIDEGRAPH_DEBUG", raising=False)
    return Command(tmp_path, capsys)


@pytest.mark.parametrize(("output", "option"), [("bundle", "--no-reference"), ("tiny.onnx", "--single-file")])
def test_a_model_that_no_graph_can_hold_is_refused_before_anything_is_traced(
    cli: Command, output: str, option: str
) -> None:
    text = TINY.replace("tiny.weight, in: {name: params.name}", "tiny.foreign").replace(
        "tiny.times, in: {x: noise, weight: weight, by: params.by}", "tiny.apply, in: {x: noise, model: weight}"
    )
    text = text.replace("  name: half\n", "").replace('  by: {default: 2.0, help: "how much"}\n', "")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", output, "--plugin", NODES, option)
    assert (result.code, "part " in result.out, (cli.folder / output).exists()) == (2, False, False)
    assert "tiny.yaml:8:3: not-exportable: nodes.weight gives a model that is compiled already; " in result.err
    assert "load the model that it was compiled from" in result.err


@pytest.mark.parametrize(("output", "option"), [("bundle", "--no-reference"), ("tiny.onnx", "--single-file")])
@pytest.mark.parametrize("rng", ["rng: torch", "rng: params.rng"])
def test_noise_of_torch_s_generator_is_refused_before_anything_is_written(
    cli: Command, rng: str, output: str, option: str
) -> None:
    text = TINY.replace("seed: 0\n", "seed: 0\n  rng: torch\n")
    if "params" in rng:
        text = text.replace("{seed: params.seed}", "{seed: params.seed, rng: params.rng}")
    else:
        text = text.replace("shape: [3, 8, 8]", "shape: [3, 8, 8], rng: torch")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", output, "--plugin", NODES, option)
    assert result.code == 2
    message = "not-exportable: 'rng: torch' draws from torch's own generator, and an export runs without torch"
    assert message in result.err
    assert "[nodes.noise]" in result.err
    assert not (cli.folder / output).exists()


def export(cli: Command, text: str, *arguments: str) -> Result:
    return cli("export", cli.workflow("tiny.yaml", text), "-o", "bundle", "--plugin", NODES, *arguments)


def manifest(folder: Path) -> Any:
    return json.loads((folder / "bundle.json").read_text())


# --- a small workflow ----------------------------------------------------------------------------------------------


def test_a_parameter_that_is_infinite_is_fixed(cli: Command) -> None:
    text = TINY.replace('by: {default: 2.0, help: "how much"}', "by: {default: .inf, type: float}")
    text = text.replace(
        "tiny.times, in: {x: noise, weight: weight, by: params.by}", "tiny.bound, in: {x: noise, most: params.by}"
    )
    text = text.replace("outputs: {image: image}", "outputs: {times: times}")
    result = export(cli, text, "--no-reference")
    assert (result.code, result.err) == (0, "")
    assert 'fixed by = "Infinity": a bundle takes no input of its type, or that is infinite at export' in result.out
    assert list(manifest(cli.folder / "bundle")["inputs"]) == ["seed"]
    times = Bundle(cli.folder / "bundle").run(seed=1)["times"]
    np.testing.assert_allclose(times, gaussian(1, (3, 8, 8)), rtol=1e-6)


COLLECTED = """
guidegraph: 1
nodes:
  schedule: {use: schedule.cosine}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}, with: {steps: 3}}
  noise: {use: noise.gaussian, with: {shape: [1, 4, 4]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise}
    body:
      scale: {use: SCALE}
      noisy: {use: schedule.add_noise, in: {x0: carry.x, noise: noise, t: loop.t, schedule: schedule}}
    next: {x: noisy}
    collect: {scale: scale}
outputs: {x: sample.x, scale: sample.scale}
"""


def test_numbers_of_steps_are_collected_where_the_runtime_computes_them(cli: Command) -> None:
    interval = "guidance.interval, in: {t: loop.t}, with: {low: 100, high: 600}"
    export(cli, COLLECTED.replace("SCALE", interval), "--check")
    assert Bundle(cli.folder / "bundle").run()["scale"].tolist() == [1.0, 7.5, 1.0]

    amount = "tiny.amount, in: {i: loop.index}"
    workflow = cli.workflow("traced.yaml", COLLECTED.replace("SCALE", amount))
    result = cli("export", workflow, "-o", "traced", "--plugin", NODES)
    assert result.code == 2
    assert "'sample.body.scale' is a number that is computed from tensors" in result.err
    assert not (cli.folder / "traced").exists()


def test_a_bundle_gives_the_engines_numbers_and_says_what_is_fixed(cli: Command) -> None:
    result = export(cli, TINY, "--set", "name=whole", "--set", "seed=3", "--check")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^part encode: free axes batch, height, width; \d+ bytes of weights; ", result.out, re.MULTILINE)
    assert "\ninput seed: int, default 3\ninput by: float, default 2.0\n" in result.out
    assert '\nfixed name = "whole": nodes.weight (tiny.weight) runs at export only\n' in result.out
    assert re.search(r"^encode +times +0\.0e\+00 +0\.0e\+00$", result.out, re.MULTILINE)
    assert re.search(r"^image +0\.0000/255 of at most 2/255$", result.out, re.MULTILINE)

    actual = manifest(cli.folder / "bundle")
    assert actual["inputs"]["by"] == {"type": "float", "default": 2.0, "help": "how much"}
    names = {"guidegraph", "guidegraph-runtime", "torch", "onnx", "onnxscript", "onnxruntime", "tiny_nodes"}
    assert set(actual["versions"]) == names
    assert actual["reference"]["inputs"] == {"seed": 3, "by": 2.0}
    assert (
        cli("run", "tiny.yaml", "--plugin", NODES, "--set", "name=whole", "--set", "by=0.5", "--out", "out").code == 0
    )
    image = Bundle(cli.folder / "bundle").run(seed=0, by=0.5)["image"]
    with Image.open("out/image.png") as picture:
        assert np.abs((image[0].transpose(1, 2, 0) + 1) * 127.5 - np.array(picture)).max() <= 0.51


def test_the_bounds_of_inputs_are_listed(cli: Command) -> None:
    masked = """
  mask:   {use: mask.box, with: {size: 8, top: 2, left: 2, height: 4, width: 4}}
  hidden: {use: mask.apply, in: {image: image, mask: mask, fill: params.by}}
outputs: {image: hidden}"""
    text = TINY.replace("\noutputs: {image: image}", masked).replace("2.0", "0.5")
    result = export(cli, text, "--no-reference")
    assert "\ninput by: float, default 0.5, of at least -1 and at most 1\n" in result.out, result.err


def test_what_was_written_is_run_once(cli: Command) -> None:
    result = export(cli, TINY)
    assert result.code == 0
    assert result.out.endswith(" kB)\nimage: as the engine, 0.0000/255 of at most 2/255\n")


LOOP = """
guidegraph: 1
params: {seed: 0, count: 20, by: 1.01}
nodes:
  noise:  {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 8, 8]}}
  weight: {use: tiny.weight, with: {name: half}}
  many:
    loop: {over: params.count, as: i}
    carry: {x: noise}
    body:
      times: {use: tiny.times, in: {x: carry.x, weight: weight, by: params.by}}
    next: {x: times}
  image:  {use: image.from_sample, in: {sample: many.x}}
outputs: {image: image}
"""


@pytest.mark.parametrize(("option", "count"), [(None, 8), ("--check", 20)])
def test_the_reference_is_a_short_run_unless_the_whole_example_is_checked(
    cli: Command, option: str | None, count: int
) -> None:
    result = export(cli, LOOP, *([option] if option else []))
    assert (result.code, result.err) == (0, "")
    assert ("as the engine with count = 8, " in result.out) == (count == 8)
    actual = manifest(cli.folder / "bundle")
    assert actual["reference"]["inputs"]["count"] == count
    assert actual["inputs"]["count"]["default"] == 20


@pytest.mark.parametrize(
    "step",
    [
        "times: {use: tiny.late, in: {x: carry.x, i: loop.index}}",
        """amount: {use: tiny.amount, in: {i: loop.i}}
      half:   {use: tiny.times, in: {x: carry.x, weight: weight, by: params.by}}
      times:  {use: tiny.mix, in: {x: carry.x, other: half, amount: amount}}""",
    ],
)
def test_the_reference_is_the_whole_example_where_steps_are_unlike(cli: Command, step: str) -> None:
    text = LOOP.replace("times: {use: tiny.times, in: {x: carry.x, weight: weight, by: params.by}}", step)
    result = export(cli, text)
    assert (result.code, result.err) == (0, "")
    assert "image: as the engine, " in result.out
    assert manifest(cli.folder / "bundle")["reference"]["inputs"]["count"] == 20


def test_the_reference_can_be_left_out(cli: Command) -> None:
    result = export(cli, TINY, "--no-reference")
    assert result.code == 0
    assert "as the engine" not in result.out
    assert "reference" not in manifest(cli.folder / "bundle")
    assert not (cli.folder / "bundle" / "reference").exists()


def test_a_file_that_a_parameter_names_travels_with_the_bundle(cli: Command, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (0, 128, 255)).save("mine.png")
    text = TINY.replace("  name: half\n", "  name: half\n  photo: {default: mine.png, type: Path}\n")
    text = text.replace("in: {x: noise,", "in: {x: photo,").replace("by: {default: 2.0", "by: {default: 1.0")
    text = text.replace("  noise: ", "  photo:  {use: image.load, in: {path: params.photo}}\n  noise: ")
    result = export(cli, text, "--set", "photo=mine.png", "--set", "name=whole", "--check")
    assert (result.code, result.err) == (0, "")
    actual = manifest(tmp_path / "bundle")
    assert actual["inputs"]["photo"] == {"type": "image", "default": "inputs/photo.png"}
    Path("mine.png").unlink()
    image = Bundle("bundle").run()["image"]
    assert np.rint((image[0, :, 0, 0] + 1) * 127.5).tolist() == [0, 128, 255]
    assert str(tmp_path) not in (tmp_path / "bundle" / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "use: tiny.times, in: {x: noise, weight: weight, by: params.by}",
            "use: tiny.branch, in: {x: noise}",
            "tiny_nodes.py:50:1: not-exportable: nodes.times (tiny.branch): a tensor's value decides what happens here",
        ),
        (
            "image:  {use: image.from_sample, in: {sample: times}}",
            "sample:\n    loop: {over: weight, as: w}\n    carry: {x: times}\n    body:\n"
            "      out: {use: tiny.outside, in: {x: carry.x}}\n    next: {x: out}\n"
            "  image:  {use: image.from_sample, in: {sample: sample.x}}",
            "nodes.sample.body.out (tiny.outside) is computed from what a loop gives, cannot be traced (host)",
        ),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_written(
    cli: Command, old: str, new: str, message: str
) -> None:
    assert old in TINY
    result = export(cli, TINY.replace(old, new))
    assert result.code == 2
    assert ": not-exportable: " in result.err
    assert message in result.err
    assert result.err.count("\n") == 1
    assert sorted(p.name for p in cli.folder.iterdir()) == ["tiny.yaml"]


def test_the_traceback_of_what_cannot_be_exported_is_shown_where_it_is_asked_for(cli: Command) -> None:
    text = TINY.replace(
        "use: tiny.times, in: {x: noise, weight: weight, by: params.by}", "use: tiny.branch, in: {x: noise}"
    )
    assert "Traceback" in export(cli, text, "--traceback").err


@pytest.mark.parametrize("command", [["--set", "seeed=3"], ["--only", "picture"], ["--set", "by=much"]])
def test_wrong_arguments_end_with_2_and_write_nothing(cli: Command, command: list[str]) -> None:
    result = export(cli, TINY, *command)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(("--set: ", "--only: "))
    assert not (cli.folder / "bundle").exists()


def test_a_folder_that_is_no_bundle_is_left_as_it_is(cli: Command) -> None:
    (cli.folder / "bundle").mkdir()
    (cli.folder / "bundle" / "letters.txt").write_text("mine")
    result = export(cli, TINY)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "--output: not-a-bundle: 'bundle' is there and no bundle; choose a new folder, or remove it\n"
    )
    assert [p.name for p in (cli.folder / "bundle").iterdir()] == ["letters.txt"]


def test_a_bundle_takes_the_place_of_an_older_one(cli: Command) -> None:
    (cli.folder / "bundle").mkdir()
    (cli.folder / "bundle" / "bundle.json").write_text("{}")
    (cli.folder / "bundle" / "old.onnx").write_text("old")
    assert export(cli, TINY, "--no-reference").code == 0
    assert not (cli.folder / "bundle" / "old.onnx").exists()
    assert sorted(p.name for p in cli.folder.iterdir()) == ["bundle", "tiny.yaml"]


def test_without_the_exporters_packages_one_line_says_what_to_install(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "guidegraph.commands.exports.steps.find_spec", lambda name: None if name == "onnxscript" else object()
    )
    result = export(cli, TINY)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: missing-extra: an export needs onnxscript, a dependency of guidegraph that is not installed; "
        "pip install onnxscript\n"
    )


def test_a_bundle_that_differs_from_the_engine_fails_the_check(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph.graph.export import trace_parts

    trace = trace_parts._trace_with_fallback

    def trace_wrong(*arguments: Any) -> Any:
        part = trace(*arguments)
        model = part.traced.model
        (multiply, *_) = [n for n in model.graph if n.op_type == "Mul"]
        multiply.op_type = "Add"
        return part

    monkeypatch.setattr(trace_parts, "_trace_with_fallback", trace_wrong)
    result = export(cli, TINY, "--check")
    assert result.code == 1
    assert re.search(r"^image +\d+\.\d+/255 of at most 2/255 +too far$", result.out, re.MULTILINE)
    assert "differs from the engine; bundle is there" in result.out
    result = export(cli, TINY)
    assert result.code == 1
    assert re.search(r"^image: differs, \d+\.\d+/255 of at most 2/255; --check shows which", result.out, re.MULTILINE)


# --- the embedded model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    folder: Path
    bundle: Path
    out: str


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    folder = tmp_path_factory.mktemp("scenes")
    command = ["export", str(WORKFLOW), "-o", "bundle", "--set", "steps=3", "--check"]
    result = subprocess.run(
        [sys.executable, "-m", "guidegraph", *command], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    return Scenes(folder, folder / "bundle", result.stdout)


def run_alone(scenes: Scenes, *arguments: str) -> str:
    """guidegraph-run in a process that has neither torch nor guidegraph."""
    result = subprocess.run(
        [sys.executable, "-c", ALONE, str(scenes.bundle), *arguments],
        cwd=scenes.folder,
        env=environment() | {"PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.array(picture).astype(int)


@pytest.mark.slow
def test_text_to_image_is_exported_and_checked(scenes: Scenes) -> None:
    axes = "batch, height (multiples of 4), width (multiples of 4), rows"
    assert re.search(rf"^part sample.step: free axes {re.escape(axes)}; 37.3 MB of weights; ", scenes.out, re.MULTILINE)
    assert 'fixed model = "pkg:scenes": nodes.model (model.load) runs at export only' in scenes.out
    errors = re.findall(r"^(?:encode|sample\.step|decode) +\S+ +(\S+) +\S+$", scenes.out, re.MULTILINE)
    assert len(errors) == 7
    assert max(map(float, errors)) < 1e-4
    assert re.search(r"^image +0\.0\d+/255 of at most 2/255$", scenes.out, re.MULTILINE)


@pytest.mark.slow
def test_a_server_without_torch_draws_the_engines_pictures(scenes: Scenes) -> None:
    settings = ["--set", "seed=5", "--set", "batch=2", "--set", "steps=4", "--set", "scale=2.5"]
    run_alone(scenes, *settings, "--out", "server")
    command = ["run", str(WORKFLOW), *settings, "--out", "engine"]
    done = subprocess.run([sys.executable, "-m", "guidegraph", *command], cwd=scenes.folder, env=environment())
    assert done.returncode == 0
    for name in ("image-0000.png", "image-0001.png"):
        assert np.abs(pixels(scenes.folder / "server" / name) - pixels(scenes.folder / "engine" / name)).max() <= 2


@pytest.mark.slow
def test_another_sampler_and_size_need_no_new_export(scenes: Scenes) -> None:
    run_alone(scenes, "--node", "scheduler.use=scheduler.heun", "--node", "noise.shape=[4, 8, 24]", "--out", "other")
    text = WORKFLOW.read_text().replace("scheduler.ddim", "scheduler.heun").replace("[4, 16, 16]", "[4, 8, 24]")
    (scenes.folder / "other.yaml").write_text(text)
    command = ["run", "other.yaml", "--set", "steps=3", "--out", "expected"]
    done = subprocess.run([sys.executable, "-m", "guidegraph", *command], cwd=scenes.folder, env=environment())
    assert done.returncode == 0
    actual = pixels(scenes.folder / "other" / "image.png")
    assert actual.shape == (32, 96, 3)
    assert np.abs(actual - pixels(scenes.folder / "expected" / "image.png")).max() <= 2


@pytest.mark.slow
def test_the_bundle_verifies_on_a_server(scenes: Scenes) -> None:
    assert re.search(r"^image: ok, 0\.0\d+/255 of at most 2/255$", run_alone(scenes, "--verify"), re.MULTILINE)


@pytest.mark.slow
def test_the_preview_shows_the_picture_of_another_prompt(scenes: Scenes) -> None:
    bundle = Bundle(scenes.bundle, SessionSettings.on("cpu", intra_threads=1))
    assert bundle.manifest.preview is not None
    run = bundle.start(prompt="a cactus on snow", seed=1, steps=10)
    likeness = []
    while not run.done:
        preview = draw_preview(bundle.manifest.preview, run.read_carries())
        assert preview is not None
        assert preview.shape == (1, 3, 16, 16)
        likeness.append(preview.ravel())
        bundle.step([run])
    picture = run.finish()["image"].reshape(3, 16, 4, 16, 4).mean((2, 4)).ravel()
    correlation = [float(np.corrcoef(preview, picture)[0, 1]) for preview in likeness]
    assert correlation == sorted(correlation)
    assert correlation[-1] > 0.8

"""Names and arguments of an export that a bundle cannot hold, or that need files of other names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.running.measure_costs import replay
from tests.commands.command import Command
from tests.graph.export.test_export_command import LOOP, NODES, TINY
from tests.graph.export.test_export_command import cli as cli  # the fixture


def open_bundle() -> Bundle:
    return Bundle("bundle", SessionSettings.on("cpu", intra_threads=1))


@pytest.mark.parametrize("output", ["image", "number"])
def test_an_output_named_run_is_refused_before_anything_is_traced(cli: Command, output: str) -> None:
    text = TINY.replace("outputs: {image: image}", f"outputs: {{run: {output}, x: noise}}")
    text = text.replace("  image: ", "  number: {use: tiny.amount, with: {i: 3}}\n  image: ")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", "bundle", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    assert "output-name: the name 'run' is taken by the file run.json: call the output otherwise" in result.err
    assert not Path("bundle").exists()
    assert cli("export", "tiny.yaml", "-o", "bundle", "--plugin", NODES, "--only", "x").code == 0


def test_outputs_that_differ_in_case_or_are_not_ascii_have_files_of_their_own(cli: Command) -> None:
    text = TINY.replace("outputs: {image: image}", "outputs: {Image: image, image: times, größe: noise}")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", "bundle", "--plugin", NODES)
    assert (result.code, result.err) == (0, "")
    assert sorted(path.name for path in Path("bundle/reference").iterdir()) == ["Image.npy", "gr__e.npy", "image_2.npy"]
    bundle = open_bundle()
    assert [difference.fits for difference in replay(bundle)] == [True, True, True]
    assert [*bundle.run()] == ["Image", "image", "größe"]


def test_files_of_parameters_that_differ_in_case_both_travel_with_the_bundle(cli: Command) -> None:
    for name, grey in (("a.png", 0), ("b.png", 255)):
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(name)
    text = """
guidegraph: 1
params: {photo: {default: a.png, type: Path}, Photo: {default: b.png, type: Path}}
nodes:
  dark:  {use: image.load, in: {path: params.photo}}
  light: {use: image.load, in: {path: params.Photo}}
  half:  {use: tiny.weight, with: {name: half}}
  sum:   {use: tiny.times, in: {x: light, weight: half}}
outputs: {dark: dark, light: sum}
"""
    result = cli("export", cli.workflow("two.yaml", text), "-o", "bundle", "--plugin", NODES)
    assert (result.code, result.err) == (0, "")
    bundle = open_bundle()
    assert [spec.default for spec in bundle.manifest.inputs.values()] == ["inputs/photo.png", "inputs/Photo_2.png"]
    outputs = bundle.run()
    assert [float(outputs[name].mean()) for name in ("dark", "light")] == [-1.0, 1.0]


def test_loops_whose_names_differ_in_case_have_graphs_of_their_own(cli: Command) -> None:
    second = LOOP[LOOP.index("  many:") : LOOP.index("  image:")].replace("many:", "Many:").replace("noise}", "many.x}")
    text = LOOP.replace("  image:", f"{second}  image:").replace("sample: many.x", "sample: Many.x")
    result = cli("export", cli.workflow("loops.yaml", text), "-o", "bundle", "--plugin", NODES, "--set", "count=2")
    assert (result.code, result.err) == (0, "")
    files = {name: part.file for name, part in open_bundle().manifest.parts.items()}
    assert files == {"many.step": "many.step.onnx", "Many.step": "Many.step_2.onnx"}


def test_what_a_runtime_would_refuse_is_an_error_of_the_workflow(cli: Command) -> None:
    text = TINY.replace('help: "how much"', f'help: "{"long " * 3000}"')
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", "bundle", "--plugin", NODES)
    assert result.code == 2
    assert (
        ": not-exportable: a runtime would refuse the bundle: inputs.by.help: expected a text of at most" in result.err
    )
    assert not Path("bundle").exists()


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("zzz=fp16", "there is no part 'zzz'; parts: encode"),
        ("fp16", "fp16 is for parts in loops, and there is none; name a part: PART=fp16"),
    ],
)
@pytest.mark.parametrize("target", [["-o", "bundle"], ["-o", "tiny.onnx", "--single-file"]])
def test_a_precision_that_fits_no_part_is_an_error_of_the_option(
    cli: Command, precision: str, message: str, target: list[str]
) -> None:
    workflow = cli.workflow("tiny.yaml", TINY)
    result = cli("export", workflow, *target, "--plugin", NODES, "--precision", precision)
    assert result.code == 2
    assert result.err == f"--precision: unknown-precision: {message}\n"


NULLABLE = """
guidegraph: 1
params: {seed: 0, columns: {type: "int | None", default: 2}}
nodes:
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 4, 4], batch: 4}}
  image: {use: image.from_sample, in: {sample: noise}}
  grid:  {use: image.grid, in: {image: image, columns: params.columns}}
outputs: {grid: grid}
"""


def test_a_parameter_that_takes_null_takes_it_in_the_bundle(cli: Command) -> None:
    result = cli("export", cli.workflow("grid.yaml", NULLABLE), "-o", "bundle")
    assert (result.code, result.err) == (0, "")
    assert "\ninput columns: int or null, default 2\n" in result.out
    bundle = open_bundle()
    assert bundle.manifest.inputs["columns"].optional
    assert bundle.run(columns=1)["grid"].shape == (1, 3, 26, 8)
    assert cli("run", "grid.yaml", "--set", "columns=null", "--out", "engine").code == 0
    with Image.open("engine/grid.png") as picture:
        pixels = np.asarray(picture)
    found = bundle.run(columns=None)["grid"][0].transpose(1, 2, 0)
    assert found.shape == pixels.shape
    assert np.abs((found.clip(-1, 1) + 1) * 127.5 - pixels).max() <= 0.51


def test_a_number_of_a_graph_takes_no_null(cli: Command) -> None:
    text = TINY.replace('by: {default: 2.0, help: "how much"}', 'by: {default: 2.0, type: "float | None"}')
    text = text.replace("tiny.times, in: {x: noise, weight: weight, by:", "tiny.maybe, in: {x: noise, by:")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", "bundle", "--plugin", NODES)
    assert (result.code, result.err) == (0, "")
    assert "\ninput by: float, default 2.0\n" in result.out


def test_an_infinite_number_of_a_single_node_becomes_part_of_its_graph(cli: Command) -> None:
    text = TINY.replace("by: {default: 2.0", "by: {default: .inf")
    text = text.replace("tiny.times, in: {x: noise, weight: weight, by:", "tiny.bound, in: {x: noise, most:")
    workflow = cli.workflow("tiny.yaml", text)
    result = cli("export", workflow, "-o", "bundle", "--plugin", NODES, "--only", "times")
    assert (result.code, result.err) == (0, "")
    assert [*open_bundle().manifest.inputs] == ["x"]
    x = np.full((1, 3, 8, 8), 7.0, np.float32)
    assert np.array_equal(open_bundle().run(x=x)["out"], x)

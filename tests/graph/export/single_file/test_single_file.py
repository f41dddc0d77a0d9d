"""`guidegraph export --single-file`: a whole workflow in one call of any onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from guidegraph.graph.execution.run import run
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.single_file.host_prelude import DrawnInput, HostPrelude
from guidegraph.graph.export.single_file.write import DrawnShapes, write_single
from guidegraph.graph.export.workflow import export_workflow
from guidegraph.graph.ir import Graph
from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.rehearse import Axis
from guidegraph_runtime.running.single_file import inputs_of, inputs_with, read_description
from tests.commands.command import Command
from tests.graph.export.partition.planning import graph_of
from tests.graph.export.partition.test_planning import LOOP, NOISE
from tests.graph.export.test_export_command import NODES, TINY


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


def written(graph: Graph, folder: Path, values: Mapping[str, Any], **more: Any) -> Path:
    """A single file of a workflow, its outputs tensors."""
    exported = export_workflow(graph, values, one_graph=True, **more)
    write_single(
        exported, folder / "all.onnx", kinds=dict.fromkeys(exported.outputs, "tensor"), versions={"guidegraph": "0"}
    )
    return folder / "all.onnx"


def once(file: Path, **params: Any) -> dict[str, Any]:
    """The outputs of one call."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs_of(file.with_suffix(".json"), **params)), strict=True))


def operators(graph: Any) -> set[tuple[str, str]]:
    actual = set()
    for node in graph.node:
        actual.add((node.domain, node.op_type))
        for attribute in node.attribute:
            actual |= operators(attribute.g) if attribute.HasField("g") else set()
    return actual


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    folder = tmp_path_factory.mktemp("loop")
    text = LOOP.replace("params: {seed: 3,", "params: {batch: 1, seed: 3,").replace(
        "in: {seed: params.seed}", "in: {seed: params.seed, batch: params.batch}", 1
    )
    graph = graph_of(text, folder)
    return graph, written(graph, folder, {"seed": 3, "steps": 4, "factor": 0.5, "batch": 1})


@pytest.mark.parametrize("change", [{}, {"steps": 7, "seed": 11, "factor": -1.25}, {"steps": 1}, {"batch": 3}])
def test_a_loop_with_noise_and_a_gradient_in_it_runs_in_one_call(
    loop: tuple[Graph, Path], change: dict[str, Any]
) -> None:
    graph, file = loop
    actual = once(file, **change)
    expected = run(graph, {"seed": 3, "steps": 4, "factor": 0.5, "batch": 1, **change}).outputs
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(actual[name], tensor.numpy(), rtol=1e-5, atol=1e-6)


def test_another_size_needs_no_new_export(loop: tuple[Graph, Path], tmp_path: Path) -> None:
    _, file = loop
    description = read_description(file.with_suffix(".json"))
    inputs = inputs_with(description, {"batch": 2}, {"noise.shape": [2, 3, 5]})
    assert inputs["run.body.fresh"].shape == (4, 2, 2, 3, 5)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (half, kept) = session.run(["half", "kept"], inputs)
    graph = graph_of(LOOP.replace("[2, 4, 6]", "[2, 3, 5], batch: 2"), tmp_path)
    expected = run(graph, {"seed": 3, "steps": 4, "factor": 0.5}).outputs
    np.testing.assert_allclose(half, expected["half"].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kept, expected["kept"].numpy(), rtol=1e-5, atol=1e-6)


def test_the_graph_is_standard_and_its_loop_is_a_scan(loop: tuple[Graph, Path]) -> None:
    model = onnx.load(loop[1])
    onnx.checker.check_model(model, full_check=True)
    actual = operators(model.graph)
    assert {domain for domain, _ in actual} == {""}
    assert ("", "Scan") in actual
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]


def test_the_description_says_what_each_input_is_and_holds_an_example(loop: tuple[Graph, Path]) -> None:
    _, file = loop
    told = json.loads(file.with_suffix(".json").read_text())
    data = file.with_suffix(".bin").read_bytes()
    made = inputs_of(file.with_suffix(".json"))
    assert made.keys() == told["inputs"].keys()
    for name, item in told["inputs"].items():
        example = item["example"]
        array = np.frombuffer(
            data, item["dtype"], example["bytes"] // np.dtype(item["dtype"]).itemsize, example["offset"]
        )
        np.testing.assert_array_equal(array.reshape(example["shape"]), made[name])
        assert item["about"]
    assert told["inputs"]["params.factor"]["example"]["values"] == 0.5
    assert told["inputs"]["run.body.fresh"]["dims"] == ["steps", "batch", 2, "height", "width"]
    assert set(told["outputs"]) == {"half", "kept"}


def test_noise_like_a_sample_inside_has_its_shape_from_the_inputs(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, factor: 2.0}}
nodes:
  {NOISE}
  a: {{use: plan.scale, in: {{x: noise, factor: params.factor}}}}
  twice: {{use: tensor.cat, in: {{tensors: [a, a]}}, with: {{axis: 2}}}}
  other: {{use: noise.gaussian, in: {{like: twice, seed: params.seed}}}}
  b: {{use: plan.mix, in: {{x: twice, average: other}}}}
outputs: {{b: b.x}}
"""
    graph = graph_of(text, tmp_path)
    file = written(graph, tmp_path, {"seed": 0, "factor": 2.0})
    for change in ({}, {"seed": 4, "factor": 0.1}):
        expected = run(graph, {"seed": 0, "factor": 2.0, **change}).outputs["b"]
        np.testing.assert_allclose(once(file, **change)["b"], expected.numpy(), rtol=1e-5, atol=1e-6)
    made = inputs_with(read_description(file.with_suffix(".json")), {}, {"noise.shape": [2, 10, 3]})
    assert made["other"].shape == (1, 2, 20, 3)


CALLED = """
params: {seed: 3, factor: 0.5}
nodes:
  all: {use: ./inner.yaml, in: {seed: params.seed, factor: params.factor}, with: {steps: 4}}
outputs: {half: all.half, kept: all.kept}
"""
OVER_ITEMS = (
    LOOP.replace("over: params.steps", "over: items")
    .replace("steps: 4, ", "")
    .replace("nodes:\n", "nodes:\n  items: {use: plan.read, with: {word: a}}\n")
)


@pytest.mark.parametrize(("text", "node", "count"), [(CALLED, "all/run", 4), (OVER_ITEMS, "run", 1)])
def test_a_loop_whose_count_is_the_same_in_every_run_has_fresh_noise(
    tmp_path: Path, text: str, node: str, count: int
) -> None:
    (tmp_path / "inner.yaml").write_text("guidegraph: 1\n" + LOOP)
    graph = graph_of(text, tmp_path)
    file = written(graph, tmp_path, {"seed": 3, "factor": 0.5})
    for change in ({}, {"seed": 11, "factor": 2.0}):
        actual, expected = once(file, **change), run(graph, {"seed": 3, "factor": 0.5, **change}).outputs
        for name, tensor in expected.items():
            np.testing.assert_allclose(actual[name], tensor.numpy(), rtol=1e-5, atol=1e-6)
    noise = json.loads(file.with_suffix(".json").read_text())["inputs"][f"{node}.body.fresh"]
    assert noise["dims"] == [count, "batch", 2, "height", "width"]
    assert noise["noise"]["over"] == count
    assert noise["about"].endswith(f"another for each of {count} iterations")


def test_a_loop_over_an_empty_list_is_refused(tmp_path: Path) -> None:
    graph = graph_of(LOOP.replace("steps: 4", "steps: {default: [7.0, 3.0], type: list}"), tmp_path)
    file = written(graph, tmp_path, {"seed": 3, "steps": [7.0, 3.0], "factor": 0.5})
    message = "'params.steps' gives a loop 0 iterations, and one graph runs each loop at least once: give one or more"
    with pytest.raises(BundleError, match=message):
        once(file, steps=[])


INDEXED = LOOP.replace("steps: 4", "steps: ITEMS").replace("index: loop.index", "index: loop.i")


def test_noise_takes_the_items_of_a_counting_loop_as_its_index(tmp_path: Path) -> None:
    graph, values = graph_of(INDEXED.replace("ITEMS", "4"), tmp_path), {"seed": 3, "steps": 4, "factor": 0.5}
    actual = once(written(graph, tmp_path, values))["half"]
    np.testing.assert_allclose(actual, run(graph, values).outputs["half"].numpy(), rtol=1e-5, atol=1e-6)


def test_noise_whose_index_is_an_item_of_a_list_is_refused(tmp_path: Path) -> None:
    graph = graph_of(INDEXED.replace("ITEMS", "{default: [7, 3], type: list}"), tmp_path)
    with pytest.raises(ExportError, match=r"nodes.run.body.fresh \(noise.gaussian\).*an item of 'params.steps'"):
        written(graph, tmp_path, {"seed": 3, "steps": [7, 3], "factor": 0.5})


def test_a_host_operation_after_the_graph_is_named_and_nothing_is_written(cli: Command) -> None:
    text = TINY.replace(
        "outputs: {image: image}", "  sheet: {use: image.grid, in: {image: image}}\noutputs: {sheet: sheet}"
    )
    file = cli.workflow("tiny.yaml", text)
    result = cli("export", file, "-o", "tiny.onnx", "--single-file", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    told = "tiny.yaml:12:3: not-exportable: nodes.sheet (image.grid) is computed from what the graph gives"
    assert told in result.err
    assert "--only" in result.err
    assert "leave out --single-file" in result.err
    assert [path.name for path in cli.folder.iterdir()] == ["tiny.yaml"]


def test_all_reasons_against_one_graph_are_said_before_anything_is_traced(cli: Command) -> None:
    sheets = "  once: {use: image.grid, in: {image: image}}\n  again: {use: image.grid, in: {image: once}}\n"
    text = TINY.replace("outputs: {image: image}", sheets + "outputs: {once: once, again: again}")
    result = cli("export", cli.workflow("tiny.yaml", text), "-o", "tiny.onnx", "--single-file", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("is computed from what the graph gives") == 2
    text = TINY.replace("outputs: {image: image}", "outputs: {image: image, noise: noise, first: noise}")
    result = cli("export", cli.workflow("noise.yaml", text), "-o", "tiny.onnx", "--single-file", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    for name in ("noise", "first"):
        assert f"output '{name}' ('noise') is there before the graph runs" in result.err


def test_an_axis_of_random_numbers_is_known_though_another_axis_of_a_value_is_not() -> None:
    """The batch of `x` is that of `c`, which is as long in each run; the step could take other lengths."""
    parts = {
        "encode": SimpleNamespace(inputs={"ids": ("rows", 48)}, outputs={"c": ("rows", 48)}),
        "decode": SimpleNamespace(inputs={"c": ("batch", "tokens")}, outputs={"told": ("batch", "tokens")}),
        "step": SimpleNamespace(inputs={"x": ("batch", 8), "told": ("batch", "tokens")}, outputs={"y": ("batch", 8)}),
    }
    plan = [
        Operation("part", "encode", {"ids": "ids"}, {}, ("c",)),
        Operation("part", "decode", {"c": "c"}, {}, ("told",)),
        Operation("part", "step", {"x": "x", "told": "told"}, {}, ("y",)),
    ]
    draw = DrawnInput(Operation("noise.gaussian", "fresh", {"like": "y"}, {}, ("fresh",)), None)
    examples = {"ids": np.zeros((1, 48), np.int64), "x": np.zeros((1, 8))}
    traced: Any = parts
    batch, channels = DrawnShapes(plan, traced, HostPrelude(), examples).shape_of(draw) or ()
    assert batch.of == {"batch": (Axis("x", 0), Axis("ids", 0))}
    assert channels.text == "8"


def test_what_only_python_can_do_with_the_graphs_values_is_named(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, factor: 2.0}}
nodes:
  {NOISE}
  run:
    loop: {{over: params.seed, as: i}}
    carry: {{x: noise}}
    body:
      a: {{use: plan.scale, in: {{x: carry.x, factor: params.factor}}}}
      b: {{use: noise.gaussian, in: {{like: a, index: loop.index, seed: loop.i}}}}
    next: {{x: b}}
outputs: {{x: run.x}}
""".replace("params.seed, as", "params.steps, as").replace("{seed: 0,", "{seed: 0, steps: 3,")
    graph = graph_of(text, tmp_path)
    with pytest.raises(ExportError, match=r"nodes.run.body.b \(noise.gaussian\).*--single-file"):
        export_workflow(graph, {"seed": 0, "steps": 3, "factor": 2.0}, one_graph=True)


def test_the_command_writes_three_files_and_checks_them(cli: Command) -> None:
    file = cli.workflow("tiny.yaml", TINY)
    result = cli("export", file, "-o", "out/tiny.onnx", "--single-file", "--plugin", NODES, "--check")
    assert (result.code, result.err) == (0, "")
    assert "\ninput noise: float32 (batch, 3, height, width)\n" in result.out
    assert "\noutput image.uint8\n" in result.out
    assert "0.0000/255 of at most 2/255" in result.out
    folder = cli.folder / "out"
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.bin", "tiny.json", "tiny.onnx"]
    actual = once(folder / "tiny.onnx", by=0.5, seed=2)
    pixels = np.clip(np.round((actual["image"] + 1) * np.float32(127.5)), 0, 255).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(actual["image.uint8"], pixels.astype(np.uint8))


def test_a_name_that_is_no_onnx_file_is_refused(cli: Command) -> None:
    result = cli("export", cli.workflow("tiny.yaml", TINY), "-o", "tiny", "--single-file", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("--output: bad-value: ")


def test_files_of_something_else_stay_as_they_are(cli: Command) -> None:
    (cli.folder / "tiny.json").write_text('{"mine": 1}')
    result = cli("export", cli.workflow("tiny.yaml", TINY), "-o", "tiny.onnx", "--single-file", "--plugin", NODES)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "--output: bad-value: 'tiny.json' is there and of no single file; choose another name, or remove it\n"
    )
    assert sorted(path.name for path in cli.folder.iterdir()) == ["tiny.json", "tiny.yaml"]


def test_more_weights_than_one_file_holds_are_refused_and_nothing_is_written(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph.graph.export.single_file.write.EMBEDDED_LIMIT", 8)
    result = cli("export", cli.workflow("tiny.yaml", TINY), "-o", "tiny.onnx", "--single-file", "--plugin", NODES)
    assert result.code == 2
    assert "bytes of weights do not fit one ONNX file; export a bundle instead" in result.err
    assert [path.name for path in cli.folder.iterdir()] == ["tiny.yaml"]


def test_an_earlier_export_is_replaced(cli: Command) -> None:
    file = cli.workflow("tiny.yaml", TINY)
    for by in ("2", "3"):
        result = cli("export", file, "-o", "tiny.onnx", "--single-file", "--plugin", NODES, "--set", f"by={by}")
        assert (result.code, result.err) == (0, "")
    assert sorted(path.name for path in cli.folder.iterdir()) == ["tiny.bin", "tiny.json", "tiny.onnx", "tiny.yaml"]
    assert inputs_of("tiny.json")["params.by"] == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sed": 3}, "no input 'sed'; did you mean 'seed'?"),
        ({"factor": "much"}, "'factor': expected a number"),
        ({"steps": 0}, "'steps': expected an integer of at least 1, found 0"),  # onnxruntime has no empty Scan
    ],
)
def test_wrong_parameters_are_named(loop: tuple[Graph, Path], params: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        inputs_of(loop[1].with_suffix(".json"), **params)


def test_a_changed_data_file_is_refused(loop: tuple[Graph, Path], tmp_path: Path) -> None:
    for suffix in (".json", ".bin"):
        content = bytearray(loop[1].with_suffix(suffix).read_bytes())
        if suffix == ".bin":
            content[0] ^= 1
        (tmp_path / f"all{suffix}").write_bytes(content)
    with pytest.raises(BundleError, match="the file was changed"):
        inputs_of(tmp_path / "all.json")

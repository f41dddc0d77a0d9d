"""A single file in Node: the same picture as the engine's, in one call of onnxruntime-node."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from guidegraph import load_workflow
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.execution.run import run
from guidegraph.graph.export.partition.precision import EVERY_STEP
from guidegraph.graph.export.single_file.write import write_single
from guidegraph.graph.export.workflow import export_workflow
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.output_formats import pixels
from guidegraph_runtime.running.single_file import inputs_of, inputs_with, read_description
from tests.commands.command import ROOT
from tests.graph.export.partition.guided import WORKFLOW, with_models
from tests.nodejs import install_packages, run_node

NODE = Path(__file__).parent.with_name("node")
TWO = 2 / 127.5
"""2/255 of a picture's range, from -1 to 1."""


@dataclass(frozen=True)
class Small:
    graph: Graph
    values: dict[str, Any]
    file: Path

    def engine(self, **change: Any) -> np.ndarray[Any, Any]:
        picture: np.ndarray[Any, Any] = run(self.graph, {**self.values, **change}).outputs["image"].numpy()
        return picture


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text("guidegraph: 1\n" + WORKFLOW)
    graph = build(folder / "small.yaml", with_models())
    values = {name: parameter.default for name, parameter in graph.params.items()}
    exported = export_workflow(graph, values, one_graph=True)
    write_single(exported, folder / "small.onnx", kinds={"image": "image"}, versions={})
    return Small(graph, values, folder / "small.onnx")


def call_in_node(config: pytest.Config, file: Path, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of one call of a single file on its examples."""
    described = json.loads(run_node("run.mjs", file, out, cwd=install_packages(config, NODE)))
    return {
        name: np.fromfile(out / f"{name}.bin", item["type"]).reshape(item["dims"]) for name, item in described.items()
    }


def one_call(file: Path, inputs: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    actual: list[Any] = session.run(["image", "image.uint8"], inputs)
    return actual


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"steps": 7, "scale": 5.5, "strength": 0.5, "seed": 8},
        {"batch": 3, "prompt": ["a tiger", "a tree on grass", "an elephant"], "label": [0, 3, 2]},
        {"batch": 1, "steps": 2},
    ],
)
def test_prompt_cfg_classifier_and_noise_in_one_call(small: Small, change: dict[str, Any]) -> None:
    picture, shown = one_call(small.file, inputs_of(small.file.with_suffix(".json"), **change))
    expected = small.engine(**change)
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).max() <= TWO
    drawn = np.stack([pixels(item) for item in expected]).astype(int)
    assert np.abs(shown - drawn).max() <= 1


@pytest.mark.parametrize(
    ("params", "nodes", "message"),
    [
        (
            {"prompt": ["a tiger on grass", "a cactus on sand"], "batch": 1},
            {},
            "' is for 2 samples and 'noise' makes 1",
        ),
        (
            {"prompt": ["a tiger on grass", "a cactus on sand"], "batch": 3},
            {},
            "' is for 2 samples and 'noise' makes 3",
        ),
        ({"label": [1, 2], "batch": 3}, {}, "2 labels do not make a batch of 3"),
        ({"scale": float("nan")}, {}, "'scale': expected a number; found nan"),
        ({"steps": 1001}, {}, "1001 steps do not fit into the schedule's 1000 timesteps"),
        ({"batch": 10**13}, {}, "it would take at least "),
        ({}, {"noise.shape": [4, 8, 12]}, "'noise' has shape (2, 4, 8, 12) where the graph takes"),
    ],
)
def test_a_single_file_refuses_what_the_engine_refuses(
    small: Small, params: dict[str, Any], nodes: dict[str, Any], message: str
) -> None:
    """Two prompts and a batch of 1 gave inputs for which the graph drew a second picture that no seed gives."""
    with pytest.raises(BundleError) as actual:
        inputs_with(read_description(small.file.with_suffix(".json")), params, nodes)
    assert actual.value.code in ("refused", "bad-value")
    assert message in actual.value.message
    if not nodes:
        with pytest.raises(GuidegraphError):
            small.engine(**bind(small.graph, params))


def test_settings_that_the_graph_was_not_traced_with_are_named(small: Small) -> None:
    with pytest.raises(BundleError, match=r"'scheduler.scheduler.reads_score' is False .* export the workflow with"):
        inputs_of(small.file.with_suffix(".json"), steps=1)  # DDPM adds no noise in its last step


def test_a_guard_without_a_value_is_an_error_of_the_description(small: Small, tmp_path: Path) -> None:
    described = json.loads(small.file.with_suffix(".json").read_text())
    described["fields"] = {"clip": {"why": "it was traced"}}
    (tmp_path / "small.json").write_text(json.dumps(described))
    with pytest.raises(BundleError, match=r"bad-manifest: expected the field 'is', found only 'why'.*\[fields\.clip\]"):
        read_description(tmp_path / "small.json")


def test_another_sampler_and_size_in_one_call(small: Small, tmp_path: Path) -> None:
    description = read_description(small.file.with_suffix(".json"))
    changes = {"scheduler.use": "scheduler.ddim", "scheduler.eta": 0.5, "noise.shape": [3, 16, 4]}
    picture, _ = one_call(small.file, inputs_with(description, {"steps": 5}, changes))
    text = WORKFLOW.replace("scheduler.ddpm", "scheduler.ddim").replace("{clip: true}", "{clip: true, eta: 0.5}")
    (tmp_path / "other.yaml").write_text("guidegraph: 1\n" + text.replace("[3, 8, 12]", "[3, 16, 4]"))
    graph = build(tmp_path / "other.yaml", with_models())
    expected = run(graph, {**small.values, "steps": 5}).outputs["image"].numpy()
    assert picture.shape == expected.shape == (2, 3, 16, 4)
    assert np.abs(picture - expected).max() <= TWO


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.02), ("int8", 0.2)])
def test_steps_of_another_precision_in_one_call(small: Small, tmp_path: Path, precision: str, error: float) -> None:
    exported = export_workflow(small.graph, small.values, one_graph=True, precision={EVERY_STEP: precision})
    write_single(exported, tmp_path / "small.onnx", kinds={"image": "image"}, versions={})
    picture, _ = one_call(tmp_path / "small.onnx", inputs_of(tmp_path / "small.json"))
    difference = np.abs(picture - small.engine()).max()
    assert 0 < difference <= error


def test_node_gives_the_engines_picture(small: Small, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    actual = call_in_node(pytestconfig, small.file, tmp_path / "out")
    expected = small.engine()
    assert actual.keys() == {"image", "image.uint8"}
    assert np.abs(actual["image"] - expected).max() <= TWO
    drawn = np.stack([pixels(item) for item in expected]).astype(int)
    assert np.abs(actual["image.uint8"] - drawn).max() <= 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text_to_image", {"steps": 4, "batch": 2, "scale": 2.5, "seed": 5}),
        ("text_to_image_128", {"steps": 4, "batch": 2, "scale": 2.5, "seed": 6}),
        ("class_classifier_guidance_ddim", {"steps": 5, "batch": 2, "scale": 6.0, "label": [3, 8]}),
        ("class_classifier_guidance_ddpm", {"steps": 6, "batch": 1, "scale": 1.0, "seed": 2}),
    ],
)
@pytest.mark.slow  # the small workflow above has all that these have but the size
def test_shipped_workflows_in_python_and_in_node(
    name: str, change: dict[str, Any], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    workflow = load_workflow(ROOT / "workflows" / f"{name}.yaml")
    example = {"steps": 3, "batch": 1}
    exported = export_workflow(workflow.graph, workflow.bind(example), only=["image"], one_graph=True)
    file = tmp_path / "all.onnx"
    write_single(exported, file, kinds={"image": "image"}, versions={})
    for params in ({}, change):
        picture, _ = one_call(file, inputs_of(file.with_suffix(".json"), **params))
        expected = workflow.run(**{**example, **params})["image"].numpy()
        assert picture.shape == expected.shape
        assert np.abs(picture - expected).max() <= TWO
    actual = call_in_node(pytestconfig, file, tmp_path / "out")
    assert np.abs(actual["image"] - workflow.run(**example)["image"].numpy()).max() <= TWO

"""Prompts and labels for another number of samples than the batch: refused before a run, in every shipped workflow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from guidegraph import WorkflowError, load_workflow
from guidegraph.graph.planning.admission import MACHINE_CODES, list_admission_problems
from guidegraph.workflow import Workflow
from tests.commands.command import Command
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
CHECKPOINT = WORKFLOWS / "checkpoints" / "text_to_image.yaml"
ELEMENTS: dict[str, Any] = {"str | list": "a tiger", "int | list": 1, "float | list": 0.5}
"""By the type of a parameter that takes one value for all samples or a list with one each: a value for one."""

OTHER_LISTS = ("size", "targets")
"""Parameters of such a type that are not of samples: the sides of a picture, and the layers of a LoRA."""

CASES = {
    f"{path.relative_to(WORKFLOWS)}-{name}": (path, name, ELEMENTS[parameter["type"]])
    for path in sorted(WORKFLOWS.rglob("*.yaml"))
    for name, parameter in yaml.safe_load(path.read_text(encoding="utf-8")).get("params", {}).items()
    if isinstance(parameter, dict) and parameter.get("type") in ELEMENTS and name not in OTHER_LISTS
}


def refusals(workflow: Workflow, **params: Any) -> list[str]:
    """The messages of refusals before a run. A parameter that is required and not in ``params`` is unknown."""
    defaults = {name: parameter.default for name, parameter in workflow.graph.params.items() if not parameter.required}
    problems = list_admission_problems(workflow.graph, {**defaults, **params})
    return [problem.message for problem in problems if problem.code not in MACHINE_CODES]


def test_every_kind_of_parameter_is_among_the_cases() -> None:
    assert {name for _, name, _ in CASES.values()} == {"prompt", "negative", "label", "sky", "difficulty"}
    assert {"checkpoints/text_to_image.yaml-negative", "class_cfg.yaml-label"} <= CASES.keys()


@pytest.mark.parametrize(("path", "name", "element"), CASES.values(), ids=CASES)
def test_a_list_of_another_length_than_the_batch_is_refused(path: Path, name: str, element: Any) -> None:
    workflow = load_workflow(path, cache="off")
    batch = {"batch": 2} if "batch" in workflow.graph.params else {}
    count = batch.get("batch", 1)  # without a batch, that of the one picture
    assert refusals(workflow, **batch, **{name: [element] * count}) == []
    messages = refusals(workflow, **batch, **{name: [element] * 3})
    assert messages
    by_length = rf"3 (prompts|labels) do not make a batch of {count}"
    by_source = rf"'{name}' \(3 values\) is for 3 samples and '(noise|start|planned/noise)' makes {count}"
    by_layout = rf"the conditions must be of one batch, or one for all; found 3 and {count} samples"
    assert all(re.search(f"{by_length}|{by_source}|{by_layout}", message) for message in messages)


@pytest.mark.parametrize(("batch", "name", "count"), [(1, "prompt", 3), (3, "prompt", 2), (2, "negative", 3)])
def test_a_checkpoint_is_not_loaded_for_prompts_that_do_not_fit(
    tmp_path: Path, batch: int, name: str, count: int
) -> None:
    workflow = load_workflow(CHECKPOINT, cache="off")
    with pytest.raises(WorkflowError) as refused:  # the empty folder would be a NodeError of checkpoint.load
        workflow.run(**{"checkpoint": tmp_path, "batch": batch, name: ["a tiger"] * count})
    node = {"prompt": "cond", "negative": "uncond"}[name]
    assert [(problem.code, problem.path) for problem in refused.value.problems] == [
        ("refused", f"nodes.sample.body.{node}")
    ]
    assert f"'{name}' ({count} values) is for {count} samples and 'noise' makes {batch}:" in str(refused.value)


@pytest.mark.parametrize("name", ["prompt", "negative"])
def test_validate_refuses_a_checkpoints_prompts_that_do_not_fit(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = Command(tmp_path, capfd)
    text = CHECKPOINT.read_text(encoding="utf-8")
    default = json.dumps(yaml.safe_load(text)["params"][name]["default"])
    assert cli("validate", cli.workflow("draw.yaml", text)).code == 0
    result = cli("validate", cli.workflow("draw.yaml", text.replace(f"default: {default}", "default: [a, b, c]", 1)))
    assert (result.code, result.out) == (2, "")
    assert f"refused: denoiser.predict: '{name}' (3 values) is for 3 samples and 'noise' makes 1:" in result.err

"""``only``, the outputs that a caller of Python asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph import load_workflow
from guidegraph.graph.errors import WorkflowError
from guidegraph.workflow import Workflow

SCHEDULES = """
guidegraph: 1
nodes:
  first: {use: schedule.linear}
  second: {use: schedule.linear}
outputs: {image: first, other: second}
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "w.yaml").write_text(SCHEDULES)
    return load_workflow(tmp_path / "w.yaml")


def test_only_these_outputs_are_computed(workflow: Workflow) -> None:
    assert [*workflow.run_with({}, only=["other"]).outputs] == ["other"]
    assert [*workflow.plan({}, only=["other"]).outputs] == ["other"]


def test_an_output_that_does_not_exist_is_named(workflow: Workflow) -> None:
    for use in (workflow.run_with, workflow.plan):
        with pytest.raises(
            WorkflowError, match="only:1:1: unknown-output: there is no output 'imgae'; did you mean 'image'"
        ):
            use({}, only=["imgae"])
        with pytest.raises(TypeError, match=r"only lists names of outputs; found the text 'image': write \['image'\]"):
            use({}, only="image")

"""Accelerated runs of small workflows: each run starts without sessions, and with an own folder of exported parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.commands.shared.plan_text import parts_json
from guidegraph.graph.acceleration.accelerator import forget_graphs
from guidegraph.graph.acceleration.store import FOLDER
from guidegraph.graph.events import Event, PartAccelerated
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.workflow import Workflow

LEVEL = 2 / 255
"""One level of grey in pictures from −1 to 1."""

WORKFLOW = """
guidegraph: 1
params:
  scale: {default: 2.0}
  batch: {default: 1}
  size: {default: 8}
  count: {default: 3}
  square: {default: false}
nodes:
  model: {use: quick.model}
  start: {use: quick.start, in: {batch: params.batch, size: params.size}}
  steps: {use: quick.steps, in: {count: params.count}}
  first: {use: quick.condition, with: {seed: 1}}
  second: {use: quick.condition, with: {seed: 2}}
  shape: {use: quick.shape, in: {square: params.square}}
  sample:
    loop: {over: steps, as: t}
    carry: {x: start}
    body:
      a: {use: quick.predict, in: {model: model, x: carry.x, t: loop.t, condition: first}}
      b: {use: quick.predict, in: {model: model, x: carry.x, t: loop.t, condition: second}}
      guided: {use: quick.guide, in: {a: a, b: b, scale: params.scale}}
      bent: {use: quick.bend, in: {x: guided, shape: shape}}
      moved: {use: quick.step, in: {x: carry.x, prediction: bent, t: loop.t}}
    next: {x: moved}
outputs: {x: sample.x}
"""


@dataclass
class Both:
    """Runs a workflow in torch and accelerated. events: of the accelerated runs, those about parts."""

    path: Path
    events: list[PartAccelerated] = field(default_factory=list)

    def run(self, accelerate: str = "onnx", **params: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The output x of a run in torch and of an accelerated one, each with new sessions."""
        forget_graphs()
        return self._run("", params), self._run(accelerate, params)

    def run_again(self, accelerate: str = "onnx", **params: Any) -> torch.Tensor:
        """The output x of an accelerated run in the same process as the last one."""
        return self._run(accelerate, params)

    def plan(self) -> dict[str, Any]:
        """What ``plan --accelerate`` says of the workflow's loops."""
        workflow = self._load("onnx")
        values = {name: param.default for name, param in workflow.graph.params.items()}
        return parts_json(compile_plan(workflow.graph, values, workflow.config))

    def states(self) -> list[str]:
        """What was said of parts since the last call."""
        states = [event.state for event in self.events]
        self.events.clear()
        return states

    def _run(self, accelerate: str, params: dict[str, Any]) -> torch.Tensor:
        x: torch.Tensor = self._load(accelerate).run(**params)["x"]
        return x

    def _load(self, accelerate: str) -> Workflow:
        return load_workflow(
            self.path,
            cache="off",
            plugins=["tests.graph.acceleration.quick_nodes"],
            observers=[self._observe],
            accelerate=accelerate,
        )

    def _observe(self, event: Event) -> None:
        if isinstance(event, PartAccelerated):
            self.events.append(event)


@pytest.fixture(scope="module")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the exported parts, the same for all tests of a module."""
    folder = tmp_path_factory.mktemp("accelerated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        yield folder


@pytest.fixture
def prepare(parts_folder: Path, tmp_path: Path) -> Callable[..., Both]:
    """Makes a workflow from ``WORKFLOW`` with some of its text replaced."""

    def make(*changes: tuple[str, str]) -> Both:
        text = WORKFLOW
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "quick.yaml"
        path.write_text(text, encoding="utf-8")
        return Both(path)

    return make

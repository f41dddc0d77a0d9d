"""A mistake has one error, whichever way the workflow is run: on the command line, from Python, or in the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from guidegraph.commands.export import export
from guidegraph.commands.run import run
from guidegraph.commands.shared.plugins import load_plugins
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.session import Session
from guidegraph.workflow import load_workflow
from guidegraph_lab.sweep.command import sweep
from guidegraph_lab.sweep.grid import make_grid
from guidegraph_lab.sweep.grid_options import parse_grid
from guidegraph_lab.sweep.run import Sweep, make_cells
from guidegraph_page.frames import RunCache
from guidegraph_page.jobs import JobQueue
from guidegraph_page.strangers import WorkflowSource
from plugins.page.tests.conftest import load_manager
from tests.commands.command import TOYS

WORKFLOW = Path("draw.yaml")
DRAW = """
guidegraph: 1
params:
  prompt: {default: 1, type: int | list}
  seed: 3
  batch: 2
  photo: {default: photo.txt, type: Path}
  target: {default: model.bin, type: Path}
nodes:
  schedule:  {use: schedule.linear}
  denoiser:  {use: toy.model}
  label:     {use: label.constant, in: {label: params.prompt}}
  condition: {use: condition.vector, in: {values: label}}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}, with: {steps: 5}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [2, 3, 5]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      predict: {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t, condition: condition}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: predict, state: carry.state, t: loop.t}
        with: {data_rms: null}
    next: {x: step.x, state: step.state}
  text: {use: toy.read, in: {path: params.photo}}
  save: {use: model.save, in: {denoiser: denoiser, path: params.target}}
outputs: {x: sample.x, text: text}
"""
PACKAGED = "pkg:text_to_image.yaml"


class Mistake(NamedTuple):
    """Parameters, outputs, a stop and a folder of which one is wrong; the error's code and a part of its text."""

    code: str
    text: str
    params: Mapping[str, Any] = MappingProxyType({})
    only: list[str] | None = None
    stop_at: str = ""
    folder: str = "out"


MISTAKES = {
    "missing file": Mistake("missing-file", "parameter 'photo' names 'nowhere.txt'", {"photo": "nowhere.txt"}),
    "forbidden write": Mistake("forbidden-write", "ships with guidegraph and is read-only", {"target": PACKAGED}),
    "batch too large": Mistake("refused", "it would take at least 120 TB", {"batch": 10**12}),
    "prompt list": Mistake("refused", "'prompt' (3 values) is for 3 samples", {"prompt": [1, 2, 3]}),
    "unknown loop": Mistake("no-loop", "there is no loop 'nowhere'; loops: sample", stop_at="nowhere:2"),
    "unknown output": Mistake("unknown-output", "there is no output 'y'; outputs: x, text", only=["y"]),
    "unwritable folder": Mistake("not-a-folder", "'runs' is not a folder", folder="runs/there"),
}


def options(mistake: Mistake) -> dict[str, Any]:
    settings = [f"{name}={value}" for name, value in mistake.params.items()]
    return {"set": settings, "only": mistake.only, "plugin": [TOYS], "no_plugins": True}


def by_run(mistake: Mistake) -> None:
    run(WORKFLOW, out=Path(mistake.folder), stop_at=mistake.stop_at, quiet=True, **options(mistake))


def by_python(mistake: Mistake) -> None:
    workflow = load_workflow(WORKFLOW, registry=load_manager().registry, cache=mistake.folder)
    workflow.run_with(mistake.params, only=mistake.only, stop_at=mistake.stop_at or None)


def by_page(mistake: Mistake) -> None:
    texts = {name: str(value) for name, value in mistake.params.items()}
    jobs = JobQueue(load_manager(), RunConfig(only=mistake.only, stop_at=mistake.stop_at), RunCache(1 << 20))
    jobs.add("draw.yaml", WorkflowSource(WORKFLOW.absolute()), texts)


def by_sweep(mistake: Mistake) -> None:
    sweep(WORKFLOW, grid=["seed=1,2"], out=Path(mistake.folder), **options(mistake))


def by_sweep_with_a_stop(mistake: Mistake) -> None:
    """The command has no option for it, and a sweep's settings do."""
    registry = load_manager().registry
    session = Session(build(WORKFLOW, registry), RunConfig(stop_at=mistake.stop_at), registry)
    seeds = parse_grid("seed=1,2", [])
    assert seeds is not None
    grid = make_grid(session.graph, {}, [seeds], [])
    make_cells(Sweep(session, grid, {}, PluginSelection(), None), CancelToken())


def by_export(mistake: Mistake) -> None:
    export(WORKFLOW, output=Path(mistake.folder, "bundle"), no_reference=True, **options(mistake))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_the_same_error_in_every_way_to_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_plugins.cache_clear()
    WORKFLOW.write_text(DRAW)
    Path("photo.txt").write_text("a tiger")
    mistake = MISTAKES[name]
    if mistake.folder != "out":
        Path("runs").write_text("a file")
    ways: list[Callable[[Mistake], None]] = [by_run, by_python, by_page, by_sweep, by_export]
    if mistake.stop_at:  # an export is no run that could stop
        ways = [by_run, by_python, by_page, by_sweep_with_a_stop]
    errors = {}
    for way in ways:
        with pytest.raises(WorkflowError) as raised:
            way(mistake)
        errors[way.__name__] = {
            (problem.code, problem.message.replace(f"{tmp_path}/", "")) for problem in raised.value.problems
        }
    assert len({frozenset(problems) for problems in errors.values()}) == 1, errors
    ((code, message),) = errors["by_run"]
    assert code == mistake.code
    assert mistake.text in message
    assert {file.name for file in tmp_path.iterdir()} - {"draw.yaml", "photo.txt", "runs"} == set()


def test_problems_of_every_kind_are_listed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WORKFLOW.write_text(DRAW.replace("seed: 3", "seed: {type: int}"))
    Path("photo.txt").write_text("a tiger")
    Path("runs").write_text("a file")
    with pytest.raises(WorkflowError) as raised:
        run(WORKFLOW, set=["photo=nowhere.txt", "size=3"], out=Path("runs"), stop_at="nowhere:2", plugin=[TOYS])
    codes = {problem.code for problem in raised.value.problems}
    assert codes == {"missing-param", "unknown-param", "missing-file", "no-loop", "not-a-folder"}

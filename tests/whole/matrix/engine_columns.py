"""What a person does with a workflow in the engine: check, draw, open, run, stop, sweep, call from Python."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from guidegraph.graph.errors import GuidegraphError, WorkflowError
from tests.whole.matrix.bench import PICTURES, WORKFLOWS, Bench, format_value, read_outputs, to_arrays, to_pixels
from tests.whole.matrix.cell import (
    Cell,
    Column,
    absent,
    find_difference,
    find_table_difference,
    list_differences,
    refused,
    right,
    wrong,
)

PORT = 8000
ROUNDED = 1e-4
"""The difference of numbers of a table in a file."""
AXES = ("scale", "seed", "prompt")
"""The parameters of a grid; the first two that a workflow has."""


def empty(folder: Path) -> Path:
    """The folder, without what an earlier judgement has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def find_file_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """How the files of a run differ from an engine's outputs; "" if they do not."""
    if {*found} != {*expected}:
        return f"the files are of {sorted(found)} in place of {sorted(expected)}"
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.ndim == 4:
            pixels = to_pixels(value)
            if found[name].shape != pixels.shape or (found[name] != pixels).any():
                return f"the files of {name} are not the engine's pictures"
        elif isinstance(value, dict) and (text := find_table_difference(found[name], value, ROUNDED)):
            return f"the file of {name}: {text}"
    return ""


def copy(bench: Bench) -> Cell:
    """A copy alone in another folder gives the same outputs."""
    folder = empty(bench.folder / "copied")
    folder.mkdir()
    file = Path(shutil.copy(bench.file, folder))
    workflow = bench.load(file)
    outputs = to_arrays(workflow.run_with(bench.settings).outputs)
    difference = find_difference(outputs, bench.engine(), bench.kinds, 0.0)
    return wrong(difference) if difference else right()


def validate(bench: Bench) -> Cell:
    """``validate --strict`` accepts it."""
    printed = bench.command("validate", "--strict", bench.file)
    return right() if printed.code == 0 else refused(printed.err or printed.out)


def draw(bench: Bench) -> Cell:
    """``draw`` names every node and is well-formed SVG."""
    file = bench.folder / "drawn.svg"
    bench.command("draw", bench.file, "-o", file).check()
    texts = " ".join(element.text or "" for element in ElementTree.parse(file).iter())
    missing = [key for key in bench.workflow.graph.ops if re.split(r"[/.]", key)[0] not in texts]
    return wrong(f"the drawing has no {missing}") if missing else right()


@contextlib.contextmanager
def open_page(bench: Bench) -> Iterator[Any]:
    """A client of the page over the workflow's folder; its ``jobs`` are the page's, its ``runs`` the folder of runs."""
    from starlette.testclient import TestClient

    from guidegraph.graph.run_config import RunConfig
    from guidegraph.plugins.manager import PluginManager
    from guidegraph_page.access import Access
    from guidegraph_page.edits import PageEdits
    from guidegraph_page.folder import WorkflowFolder
    from guidegraph_page.frames import RunCache
    from guidegraph_page.jobs import JobQueue
    from guidegraph_page.server import PageServer
    from guidegraph_page.view import Views

    manager = PluginManager(bench.plugins, lazy=True)
    manager.load_third_party()
    workflows, config, runs = WorkflowFolder.open(bench.file), RunConfig(), bench.folder / "runs"
    jobs = JobQueue(manager, config, RunCache(1 << 28))
    edits = PageEdits(workflows, manager.registry, config.policy)
    page = PageServer(workflows, Views(workflows, manager.registry, config.policy), edits, jobs, runs)
    access = Access(PORT)
    base = f"http://127.0.0.1:{PORT}"
    jobs.start()
    try:
        with contextlib.chdir(bench.folder):  # the page's runs go to the current folder
            yield Client(
                TestClient(page.make_app(access), base_url=base), f"/{access.token}", jobs, runs, bench.file.name
            )
    finally:
        jobs.stop()


class Client:
    """Requests of the page. name: of the workflow in its folder."""

    def __init__(self, client: Any, prefix: str, jobs: Any, runs: Path, name: str):
        self.client, self.prefix, self.jobs, self.runs, self.name = client, prefix, jobs, runs, name

    def get(self, path: str, **query: str) -> Any:
        return self.client.get(f"{self.prefix}/{path}", params=query)

    def run(self, path: str, **body: Any) -> tuple[str, dict[str, Any]]:
        """Queue a run or a grid, and wait. Returns the refusal and the description of the job; one is empty."""
        answer = self.client.post(f"{self.prefix}/{path}", json={"name": self.name, **body})
        if answer.status_code == 422:
            return "; ".join(problem["message"] for problem in answer.json()["problems"]), {}
        assert answer.status_code == 202, answer.text
        number = answer.json()["number"]
        self.jobs.wait(number, timeout=600)
        job: dict[str, Any] = self.jobs.jobs[number].describe(0)
        assert job["status"] == "done", f"the page's run is {job['status']}: {job['error']}"
        return "", job


def open_in_page(bench: Bench) -> Cell:
    """The page shows its nodes and a field for every parameter, and draws the engine's outputs from that form."""
    with open_page(bench) as page:
        view = page.get("api/view", name=page.name).json()
        fields = {row["name"]: row["default"] for row in view["params"]}
        missing = [name for name in bench.workflow.graph.params if name not in fields]
        assert not missing, f"the form has no field of {missing}"
        if view["problems"]:
            return refused("; ".join(problem["message"] for problem in view["problems"]))
        assert view["nodes"], "the page shows no node"
        texts = {name: format_value(value) for name, value in bench.settings.items()}
        reason, job = page.run("api/runs", params={**{n: t for n, t in fields.items() if t}, **texts})
        assert not reason, reason
        difference = find_file_difference(read_outputs(page.runs / job["folder"]), bench.engine())
    return wrong(difference) if difference else right()


def run(bench: Bench) -> Cell:
    """``run`` writes the engine's pictures, and a run of such a picture repeats it."""
    out, again = empty(bench.folder / "ran"), empty(bench.folder / "again")
    bench.command("run", bench.file, *bench.options(), "--out", out).check()
    found = read_outputs(out)
    if difference := find_file_difference(found, bench.engine()):
        return wrong(difference)
    picture = next((path for path in sorted(out.glob("*.png"))), None)
    if picture is None:
        return right("no picture to repeat")
    bench.command("run", picture, *_list_made(bench), "--out", again).check()
    difference = find_file_difference(read_outputs(again), bench.engine())
    return wrong(f"repeated from its picture: {difference}") if difference else right()


def stop_file(bench: Bench, loop: str) -> Path:
    """The file of a run that the command line has stopped after one iteration of a loop, in the page's runs."""
    out = empty(bench.folder / "runs" / f"stopped-{loop.replace('/', '-')}")
    bench.command("run", bench.file, *bench.options(), "--stop-at", f"{loop}:1", "--out", out).check()
    (file,) = out.glob("stopped-*.safetensors")
    return file


def stop(bench: Bench) -> Cell:
    """Stopped in each loop, and resumed by the command and the page with the outputs of a run that was not stopped."""
    differences = {}
    for loop in bench.loops:
        file = stop_file(bench, loop)
        out = empty(bench.folder / "resumed")
        bench.command("run", bench.file, "--resume", file, *_list_made(bench), "--out", out).check()
        differences[f"{loop}, by the command"] = find_file_difference(read_outputs(out), bench.engine())
        with open_page(bench) as page:
            texts = {name: format_value(value) for name, value in bench.settings.items()}
            reason, job = page.run("api/runs", params=texts, resume=file.parent.name)
            found = reason or find_file_difference(read_outputs(page.runs / job["folder"]), bench.engine())
            differences[f"{loop}, in the page"] = found
    difference = list_differences(differences)
    return wrong(difference) if difference else right(", ".join(bench.loops))


def _list_made(bench: Bench) -> list[str]:
    """The settings that name files of this machine, as options. A picture or a state names none itself."""
    settings = {name: value for name, value in bench.settings.items() if isinstance(value, Path)}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def resume_changed(bench: Bench) -> Cell:
    """Stopped in each loop, each change of a parameter has an effect on the rest or is refused by name."""
    problems, effective, refusals = {}, set(), set()
    for loop in bench.loops:
        stopped = bench.workflow.run(stop_at=f"{loop}:1", **bench.settings)
        for name, value in bench.changes.items():
            if not find_difference(bench.engine(**{name: value}), bench.engine(), bench.kinds, 0.0):
                continue  # it has no effect on a run of so few steps
            try:
                outputs = to_arrays(bench.workflow.run(resume=stopped, **{name: value}))
            except WorkflowError as error:
                if any(problem.code == "cannot-resume" for problem in error.problems):
                    refusals.add(name)
                else:
                    problems[f"{loop}, {name}"] = str(error)
                continue
            except GuidegraphError as error:
                problems[f"{loop}, {name}"] = f"fails in the run: {error}"
                continue
            if not find_difference(outputs, bench.engine(), bench.kinds, 0.0):
                problems[f"{loop}, {name}"] = "was changed, and the outputs are the same"
            effective.add(name)
    difference = list_differences(problems)
    note = f"changed: {', '.join(sorted(effective)) or 'nothing'}; refused by name: {', '.join(sorted(refusals))}"
    return wrong(difference) if difference else right(note)


def choose_axes(bench: Bench) -> dict[str, list[Any]]:
    """Two parameters with two values each: the default or setting, and a change."""
    graph = bench.workflow.graph
    names = [*AXES, *(name for name in bench.changes if name not in (*AXES, *PICTURES, "batch", "steps"))]
    chosen = [name for name in names if name in bench.changes][:2]
    return {name: [bench.settings.get(name, graph.params[name].default), bench.changes[name]] for name in chosen}


def grid(bench: Bench) -> Cell:
    """An X/Y grid of two parameters in the page: each cell has the outputs of a run with its values."""
    axes = choose_axes(bench)
    with open_page(bench) as page:
        texts = {name: format_value(value) for name, value in bench.settings.items() if name not in axes}
        values = {name: ",".join(map(format_value, row)) for name, row in axes.items()}
        reason, job = page.run("api/grids", params=texts, axes=values)
        assert not reason, reason
        described = page.get("api/grids", folder=job["folder"]).json()
        cells = {tuple(cell["point"]): page.runs / cell["folder"] for cell in described["cells"]}
    return _judge_cells(bench, axes, cells)


def _judge_cells(bench: Bench, axes: Mapping[str, list[Any]], cells: Mapping[tuple[int, ...], Path]) -> Cell:
    points = [*itertools.product(*(range(len(row)) for row in axes.values()))]
    assert {*cells} == {*points}, f"the cells are {sorted(cells)} in place of {points}"
    differences = {}
    for point in points:
        values = {name: row[i] for (name, row), i in zip(axes.items(), point, strict=True)}
        differences[str(values)] = find_file_difference(read_outputs(cells[point]), bench.engine(**values))
    difference = list_differences(differences)
    return wrong(difference) if difference else right(" × ".join(axes))


def sweep(bench: Bench) -> Cell:
    """A sweep has the outputs of single runs in its cells, and its report shows the pictures and the values."""
    axes, out = choose_axes(bench), empty(bench.folder / "swept")
    options = [part for name, row in axes.items() for part in ("--grid", f"{name}={','.join(map(format_value, row))}")]
    settings = {name: value for name, value in bench.settings.items() if name not in axes}
    options += [part for name, value in settings.items() for part in ("--set", f"{name}={format_value(value)}")]
    bench.command("sweep", bench.file, *options, "--out", out).check()
    cells = {}
    for folder in (out / "cells").glob("[!.]*"):
        params = json.loads((folder / "run.json").read_text())["parameters"]
        cells[tuple(row.index(params[name]) for name, row in axes.items())] = folder
    cell = _judge_cells(bench, axes, cells)
    if cell.kind != "right":
        return cell
    bench.command("report", out, "-o", bench.folder / "report.html").check()
    page = (bench.folder / "report.html").read_text(encoding="utf-8")
    missing = [name for name in axes if name not in page]
    assert not missing, f"the report does not name {missing}"
    is_drawn = any(kind == "image" for kind in bench.kinds.values())
    assert not is_drawn or "data:image/" in page, "the report shows no picture"
    return cell


def call_from_python(bench: Bench) -> Cell:
    """Python gets tensors, several runs at once have the outputs of single ones, and pictures go in as arrays."""
    outputs = bench.load().run(**bench.settings)
    for name, kind in bench.kinds.items():
        assert kind != "image" or isinstance(outputs[name], torch.Tensor), f"{name} is a {type(outputs[name]).__name__}"
        if kind == "image":
            assert outputs[name].abs().max() <= 1, f"{name} is not from −1 to 1"
    requests = [{**bench.settings, **({"seed": seed} if "seed" in bench.changes else {})} for seed in (1, 2)]
    together = [to_arrays(result) for result in bench.load().run_many(requests)]
    for request, result in zip(requests, together, strict=True):
        changes = {name: value for name, value in request.items() if name not in bench.settings}
        if difference := find_difference(result, bench.engine(**changes), bench.kinds):
            return wrong(f"two runs at once, {changes}: {difference}")
    return _call_with_arrays(bench)


def _call_with_arrays(bench: Bench) -> Cell:
    """Whether each picture may be an array of its pixels and a tensor, with the outputs of its file."""
    differences = {}
    for name in (name for name in PICTURES if name in bench.changes):
        with Image.open(bench.changes[name]) as picture:
            pixels = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
        for kind, value in (("array", pixels), ("tensor", torch.from_numpy(pixels.copy()))):
            try:
                outputs = to_arrays(bench.workflow.run(**{**bench.settings, name: value}))
            except WorkflowError as error:
                return refused(str(error))
            expected = bench.engine(**{name: bench.changes[name]})
            differences[f"{name} as {kind}"] = find_difference(outputs, expected, bench.kinds)
    difference = list_differences(differences)
    return wrong(difference) if difference else right()


def accelerate(bench: Bench) -> Cell:
    """``--accelerate``: the outputs are the engine's within rounding, and nothing falls back to torch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = to_arrays(bench.load(accelerate="onnx").run_with(bench.settings).outputs)
    if difference := find_difference(outputs, bench.engine(), bench.kinds):
        return wrong(difference)
    reasons = [str(warning.message) for warning in caught if "not accelerated" in str(warning.message)]
    return refused("; ".join(reasons)) if reasons else right()


def sample(bench: Bench) -> Cell:
    """Every sampler in the place of the workflow's own draws a finite picture, or is refused before anything runs."""
    text = bench.file.read_text(encoding="utf-8")
    names = list_samplers()
    own = re.search(rf"(use: scheduler\.|sampler: )({'|'.join(names)})\b", text)
    if own is None:
        return absent("its sampler is chosen in another file")
    (bench.folder / "sampled").mkdir(exist_ok=True)
    file = bench.folder / "sampled" / bench.file.name
    differences, refusals, drawn = {}, {}, []
    for name in names:
        changed = text[: own.start(2)] + name + text[own.end(2) :]
        file.write_text(re.sub(r"\.{1,2}/blocks/", f"{WORKFLOWS}/blocks/", changed), encoding="utf-8")
        try:
            outputs = to_arrays(bench.load(file).run_with(bench.settings).outputs)
        except WorkflowError as error:  # before anything runs
            refusals[name] = str(error)
            continue
        except GuidegraphError as error:
            differences[name] = f"fails in the run: {error}"
            continue
        arrays = [value for value in outputs.values() if isinstance(value, np.ndarray)]
        is_finite = all(np.isfinite(value).all() for value in arrays)
        differences[name] = "" if is_finite else "an output is not finite"
        drawn.append(name)
    if difference := list_differences(differences):
        return wrong(difference)
    sentences = " ".join(dict.fromkeys(refusals.values()))
    return refused(f"{', '.join(refusals)}: {sentences}") if refusals else right(f"{len(drawn)} samplers")


def list_samplers() -> list[str]:
    """The names of all samplers that take a schedule and a number of steps, and need nothing else."""
    from guidegraph.plugins.manager import PluginManager

    manager = PluginManager((), entry_points=False)
    manager.load_all()
    return sorted(
        spec.id.removeprefix("scheduler.")
        for spec in manager.registry.nodes.values()
        if spec.id.startswith("scheduler.")
        and {"scheduler", "steps", "state"} <= {*spec.outputs}
        and {"schedule", "steps"} <= {*spec.inputs, *spec.settings}
        and not any(port.required for name, port in spec.settings.items() if name != "steps")
        and spec.id != "scheduler.named"
    )


COLUMNS = [
    Column("copy", "copied to another folder", copy),
    Column("validate", "`validate --strict`", validate),
    Column("draw", "drawn", draw),
    Column("open", "opened in the page, and run there", open_in_page),
    Column("run", "run, and repeated from its picture", run),
    Column("stop", "stopped in each loop and resumed", stop),
    Column("change", "resumed with each parameter changed", resume_changed),
    Column("grid", "X/Y of two parameters in the page", grid),
    Column("sweep", "swept over two parameters, with a report", sweep),
    Column("python", "from Python, tensors in and out", call_from_python),
    Column("samplers", "with every sampler", sample),
    Column("accelerate", "`--accelerate`", accelerate),
]

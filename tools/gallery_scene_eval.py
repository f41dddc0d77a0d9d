"""Measure the gallery's text-to-image workflows by SceneEval, beside classifier-free guidance at the same cost.

    python tools/gallery_scene_eval.py runs/gallery.json
    python tools/gallery_scene_eval.py runs/untold.json --untold  # with captions alone
    python tools/gallery_scene_eval.py runs/untold.json --show  # the table, as Markdown

Each workflow draws the prompts of evaluate/scene_eval.yaml with a model of scenes of 128 pixels, picture i from the
noise of seed i, and with the layouts of one model. A layout says most of what the tasks ask, whatever the guidance;
--untold gives the denoiser the caption alone, which tells the methods apart. The cost is what torch's counter of
floating-point operations counts in one picture; classifier-free guidance is given the steps that cost the same.
--weak: a weaker model, such as one of an early checkpoint, for autoguidance, which is left out without one. A
measurement that was stopped goes on where it was; rows of another model or detector, also of one that was trained
again, of another number of prompts, and those with and without layouts in one table are refused. The last line counts
the pairs of rows whose intervals of the overall score do not overlap.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph import load_workflow
from guidegraph.nodes.models.model_json import INDEX
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.workflow import Workflow
from guidegraph_scenes.detector import detect_boxes
from guidegraph_scenes.scene_eval import judge_scenes, scene_eval_scores, scene_eval_tasks
from guidegraph_scenes.scenes128.tasks import CATEGORIES
from tools.gallery_table import (
    CHUNK,
    METHODS,
    ROOT,
    Method,
    describe_params,
    list_equal_costs,
    measure_cost,
    save,
)

STEPS = 20
SHAPES = ("shape: [4, 16, 16]", "shape: [8, 16, 16]")
"""The latents of the gallery's workflows, and those of a model of scenes of 128 pixels."""
PLAN = "pkg:blocks/plan_scenes_128.yaml"
PLANNED = """
  layouts: {use: model.load, in: {path: params.planner}}
  placing: {use: text.encode, in: {embedder: layouts.text, prompt: params.prompt}}
  planned:
    use: BLOCK
    in: {planner: layouts.denoiser, schedule: layouts.schedule, text: placing, positive: said, negative: unsaid,
         seed: params.seed, batch: params.batch}
  positive: {use: condition.merge, in: {conditions: [planned.positive]}}
  negative: {use: condition.merge, in: {conditions: [planned.negative]}}
"""
"""Nodes that give the conditions `said` and `unsaid` of a workflow a layout, under the names that it has for them."""
UNTOLD = """
guidegraph: 1
params:
  planner: {type: Denoiser}
  schedule: {type: Schedule}
  text: {type: Condition}
  positive: {type: Condition}
  negative: {type: Condition}
  seed: {type: int}
  batch: {type: int}
nodes:
  untold: {use: ./no_layout_128.yaml}
  said: {use: condition.merge, in: {conditions: [params.positive, untold]}}
  unsaid: {use: condition.merge, in: {conditions: [params.negative, untold]}}
outputs: {positive: said, negative: unsaid}
"""
"""In place of the block `PLAN`: no layout is drawn, and the denoiser is told none."""


def open_method(method: Method, untold: bool = False) -> Workflow:
    """A workflow of the gallery for latents of 128 pixels, or workflows/text_to_image_128.yaml for a plain row."""
    sources = {PLAN: UNTOLD} if untold else {}
    if method.plugin is None:
        return load_workflow(ROOT / "workflows" / "text_to_image_128.yaml", cache="off", sources=sources)
    module = f"guidegraph_{method.plugin}"
    path = ROOT / "plugins" / "gallery" / method.plugin / module / "text_to_image.yaml"
    if (folder := str(path.parents[1])) not in sys.path:
        sys.path.insert(0, folder)  # a plugin of the checkout need not be installed
    text = add_layouts(path, path.read_text(encoding="utf-8"))
    return load_workflow(path, plugins=(module,), cache="off", sources={**sources, str(path): text})


def add_layouts(path: Path, text: str) -> str:
    """The text of a gallery's workflow, with latents of 128 pixels and layouts as in workflows/text_to_image_128.yaml.

    Raises ``ValueError`` unless it has one shape of latents and the nodes `positive` and `negative`.
    """
    names = (("\n  positive:", "\n  said:"), ("\n  negative:", "\n  unsaid:"))
    nodes = ("\nnodes:\n", f"\nnodes:{PLANNED.replace('BLOCK', PLAN)}")
    planner = ("\nparams:\n", "\nparams:\n  planner: {type: Path}\n")
    for old, new in (SHAPES, *names, nodes, planner):
        if text.count(old) != 1:
            raise ValueError(f"expected '{old.strip()}' once in {path}; found it {text.count(old)} times")
        text = text.replace(old, new)
    return text


def list_methods(model: Path, planner: Path, weak: Path | None) -> list[Method]:
    """The methods, with the folders of the models among their parameters."""
    methods = []
    for method in METHODS:
        if method.plugin != "autoguidance":
            methods.append(set_model(method, model, planner))
        elif weak is not None:
            methods.append(set_model(replace(method, params={**method.params, "weak": weak}), model, planner))
    return methods


def set_model(method: Method, model: Path, planner: Path) -> Method:
    """A method that draws with models of 128 pixels and of layouts; plain rows guide at all levels."""
    low = {"low": 0.0} if method.plugin is None else {}
    return replace(method, params={"steps": STEPS, **method.params, **low, "model": model, "planner": planner})


def digest_models(arguments: argparse.Namespace) -> dict[str, str]:
    """Digests of the models and of the detector: of their model.json, which has checksums of all files."""
    folders = {"model": arguments.model, "detector": arguments.detector, "planner": arguments.planner}
    if arguments.weak is not None:
        folders["weak"] = arguments.weak
    return {role: hashlib.sha256((folder / INDEX).read_bytes()).hexdigest() for role, folder in folders.items()}


def find_problem(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Why no row can be added to those of a table; empty if one can."""
    weak = [] if arguments.weak is None else [arguments.weak]
    for folder in (arguments.model, arguments.planner, arguments.detector, *weak):
        if not (folder / INDEX).is_file():
            return f"there is no model in '{folder}': a folder that model.save wrote has a {INDEX}"
    models = digest_models(arguments)
    for row in rows.values():
        used = row.get("models", {})
        if not {"model", "detector", "planner"} <= {*used} or not used.items() <= models.items():
            return f"'{arguments.table}' has a row of another model or detector, '{row['method']}': name another file"
        if row.get("untold", False) != arguments.untold:
            return (
                f"'{arguments.table}' has rows {'with' if arguments.untold else 'without'} layouts: name another file"
            )
        if (count := row["count"]) != arguments.count:
            return (
                f"'{arguments.table}' has a row of {count} prompts in a category: use --count {count} or another file"
            )
    return ""


def measure(method: Method, detector: Any, count: int, untold: bool) -> dict[str, Any]:
    """Draw and judge `count` prompts of each category."""
    workflow, right, category, started = open_method(method, untold), [], [], time.perf_counter()
    for number, tasks in enumerate(scene_eval_tasks(count=count, batch=count).batches):
        for first in range(0, count, CHUNK):
            prompts, task = list(tasks.prompt[first : first + CHUNK]), tasks.task[first : first + CHUNK]
            settings = {"prompt": prompts, "batch": len(prompts), "seed": number * count + first}
            boxes = detect_boxes(detector, workflow.run(**method.params, **settings)["image"])
            right.append(judge_scenes(boxes.object, boxes.colour, boxes.box, task))
            category.append(task[:, 0])
    seconds = (time.perf_counter() - started) / (count * len(CATEGORIES))
    table = scene_eval_scores(torch.cat(right), torch.cat(category))
    scores = {row["category"]: [row["score"], row["low"], row["high"]] for row in table.records()}
    params = {name: value for name, value in method.params.items() if name not in ("model", "planner", "weak")}
    return {
        "method": method.name,
        "params": describe_params(params),
        "count": count,
        "untold": untold,
        "gigaflops": measure_cost(workflow, method.params),
        "scores": scores,
        "seconds": round(seconds, 3),
    }


def measure_missing(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Measure the missing rows and add them; the file is written after each."""
    detector, models = load_model(path=arguments.detector).detector, digest_models(arguments)

    def add(method: Method) -> None:
        if method.name in rows:
            return
        used = {role: digest for role, digest in models.items() if role in method.params or role != "weak"}
        rows[method.name] = {**measure(method, detector, arguments.count, arguments.untold), "models": used}
        print(json.dumps(rows[method.name]), file=sys.stderr, flush=True)
        save(rows, arguments.table)

    for method in list_methods(arguments.model, arguments.planner, arguments.weak):
        if arguments.only is None or arguments.only in method.name:
            add(method)
    for method in list_equal_costs(rows, STEPS):
        add(set_model(method, arguments.model, arguments.planner))


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown, in per cent, and the number of pairs that differ."""
    header = ["method", "GFLOP a picture", "prompts", *CATEGORIES, "overall [95 %]"]
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    for row in rows:
        value, low, high = (100 * share for share in row["scores"]["overall"])
        shares = [f"{100 * row['scores'][name][0]:.0f}" for name in CATEGORIES]
        cells = [row["method"], f"{row['gigaflops']:.1f}", str(row["count"] * len(CATEGORIES)), *shares]
        lines.append(f"| {' | '.join(cells)} | {value:.1f} [{low:.1f}, {high:.1f}] |")
    intervals = [row["scores"]["overall"][1:] for row in rows]
    apart = sum(a[1] < b[0] or b[1] < a[0] for a, b in combinations(intervals, 2))
    return "\n".join([*lines, "", f"{apart} of {math.comb(len(rows), 2)} pairs differ by more than their intervals."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    models = ROOT / "workflows" / "models"
    parser.add_argument(
        "--model",
        type=Path,
        default=models / "scenes_128",
        help="the folder of the model, of train/text_to_image_128.yaml",
    )
    parser.add_argument(
        "--planner",
        type=Path,
        default=models / "layouts_128",
        help="the folder of the model of layouts, of train/layout_128.yaml",
    )
    parser.add_argument(
        "--detector",
        type=Path,
        default=models / "detector_128",
        help="the folder of the judge, of train/detector_128.yaml",
    )
    parser.add_argument("--weak", type=Path, help="the folder of a weaker model, for autoguidance")
    parser.add_argument("--count", type=int, default=50, help="prompts in each of the six categories")
    parser.add_argument("--untold", action="store_true", help="no layouts: the denoiser has the caption alone")
    parser.add_argument("--only", help="measure the rows whose name contains this")
    parser.add_argument("--show", action="store_true", help="print the table and measure nothing")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if arguments.table.exists():
        rows = {row["method"]: row for row in json.loads(arguments.table.read_text(encoding="utf-8"))}
    if not arguments.show:
        if problem := find_problem(rows, arguments):
            parser.error(problem)
        torch.set_num_threads(1)
        measure_missing(rows, arguments)
    print(format_table(list(rows.values())))


if __name__ == "__main__":
    main()

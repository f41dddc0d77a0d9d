"""Measure the workflows that compute less of the network: CPU time beside text_to_image.yaml, and objects found.

    python benchmarks/fewer_calls.py [--rounds 9] [--count 200] [--batches 1 8] [--only NAME …]

Time: each workflow and text_to_image.yaml run in turn in one process with one thread; the ratio of their CPU seconds
(user and system, of whole runs, with the loading of the model), median and range over the rounds. Quality: a detector
trained on real scenes looks for the objects of held-out captions, and for sky and ground; picture i has seed i in every
workflow. Intervals are 95 %. Prints tables, the machine and the versions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from prompt_fidelity import PROMPT_SEED, WORKFLOWS, Scores, judge, machine

from guidegraph import load_workflow
from guidegraph.nodes.models.store import load_part
from guidegraph.workflow import Workflow
from guidegraph_scenes.scenes import compose_scene

CHUNK = 25
COLUMNS = ("all named found", "objects found", "background", "false positives")


@dataclass(frozen=True)
class Way:
    """A row of the tables: a workflow with parameters."""

    name: str
    file: str
    params: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Workflow:
        return load_workflow(WORKFLOWS / self.file, cache="off")


DEFAULT = Way("text_to_image", "text_to_image.yaml")
WAYS = (
    Way("guidance_interval", "fast/guidance_interval.yaml"),
    Way("fewer_steps", "fast/fewer_steps.yaml"),
    Way("text_to_image, 10 steps", "text_to_image.yaml", {"steps": 10}),
    Way("deep_features, n = 2", "fast/deep_features.yaml"),
    Way("deep_features, n = 2 at deep.up.3", "fast/deep_features.yaml", {"site": "deep.up.3"}),
    Way("deep_features, n = 3", "fast/deep_features.yaml", {"every": 3}),
    Way("deep_features, n = 1", "fast/deep_features.yaml", {"every": 1}),
)


def measure_cpu(workflow: Workflow, params: dict[str, Any]) -> float:
    """CPU seconds of one run."""
    began = time.process_time()
    workflow.run(**params)
    return time.process_time() - began


def compare_time(way: Way, batch: int, rounds: int) -> list[float]:
    """The CPU time of a workflow as a fraction of the default's, in each round after the first."""
    workflow, default = way.load(), DEFAULT.load()
    ratios = []
    for index in range(rounds + 1):
        times = {}
        for which in (0, 1) if index % 2 else (1, 0):
            params = way.params if which else {}
            times[which] = measure_cpu(workflow if which else default, {**params, "batch": batch, "seed": index})
        ratios.append(times[1] / times[0])
    return ratios[1:]


def score(way: Way, count: int, detector: torch.nn.Module) -> Scores:
    """Draw a picture for each held-out caption, and judge it."""
    scenes = [compose_scene(PROMPT_SEED, i, split="held_out") for i in range(count)]
    workflow, pictures = way.load(), []
    for first in range(0, count, CHUNK):
        prompt = [scene.caption for scene in scenes[first : first + CHUNK]]
        params = {**way.params, "prompt": prompt, "batch": len(prompt), "seed": first}
        pictures.append(workflow.run(**params)["image"])
    return judge(detector, torch.cat(pictures), np.stack([scene.labels for scene in scenes]))


def format_row(name: str, scores: Scores) -> str:
    rates = (scores.all_named, scores.object_recall, scores.background, scores.false_positives)
    return f"| {name} | {' | '.join(map(str, rates))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of the times; 0 measures none")
    parser.add_argument("--count", type=int, default=200, help="captions; 0 judges none")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", nargs="+", help="the rows whose names contain one of these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    ways = [way for way in WAYS if options.only is None or any(part in way.name for part in options.only)]
    if options.rounds:
        heads = " | ".join(f"CPU time, batch {batch}" for batch in options.batches)
        print(f"\n| workflow | {heads} |\n| --- |{' --- |' * len(options.batches)}", flush=True)
        for way in ways:
            columns = []
            for batch in options.batches:
                ratios = compare_time(way, batch, options.rounds)
                columns.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})")
            print(f"| {way.name} | {' | '.join(columns)} |", flush=True)
    if options.count:
        folder = WORKFLOWS / "models" / "detector"
        detector = load_part(folder, "detector", device=torch.device("cpu"), dtype=torch.float32)
        print(f"\n| workflow | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}", flush=True)
        for way in (DEFAULT, *ways):
            print(format_row(way.name, score(way, options.count, detector)), flush=True)


if __name__ == "__main__":
    main()

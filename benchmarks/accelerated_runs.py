"""Measure what ``--accelerate`` gains: workflows in torch and accelerated, in turns, in one process.

    python benchmarks/accelerated_runs.py [--rounds 8] [--start] [--only NAME]

The embedded models' text_to_image_128.yaml and text_to_image.yaml, the latter at batch 1 and 8, classifier guidance,
and a workflow with a plugin of the gallery. Both ways have the models in memory, so a run is the sampling loop and the
decoder. The parts are exported first, into the usual folder, which is not part of the times. Prints the median CPU
seconds of each, the median and the range of the ratios of neighbours, and the largest difference of the pictures in
levels of 255. A part that could run as a graph and runs in torch is an error. `--start`: also how much longer a second
process takes until the end of a run of two steps, with its CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bundle_speed import machine

from guidegraph import load_workflow
from guidegraph.workflow import Workflow

ROOT = Path(__file__).parents[1]
APG = ROOT / "plugins/gallery/apg/guidegraph_apg"


@dataclass(frozen=True)
class Case:
    """A workflow, its parameters, and the plugin that it needs. seeded: a parameter sets its seed."""

    name: str
    path: Path
    params: dict[str, Any]
    plugins: tuple[str, ...] = ()
    seeded: bool = True


CASES = (
    Case("text, 128 px", ROOT / "workflows/text_to_image_128.yaml", {}),
    Case("text, batch 1", ROOT / "workflows/text_to_image.yaml", {"batch": 1}),
    Case("text, batch 8", ROOT / "workflows/text_to_image.yaml", {"batch": 8}),
    Case("classifier", ROOT / "workflows/class_classifier_guidance_ddim.yaml", {}),
    Case("gallery: apg", APG / "text_to_image.yaml", {}, ("guidegraph_apg",)),
)


def cpu_seconds(workflow: Workflow, params: dict[str, Any]) -> tuple[float, Any]:
    """The CPU seconds of a run, of all threads, and its picture."""
    started = time.process_time()
    image = workflow.run(**params)["image"]
    return time.process_time() - started, image


def compare(case: Case, rounds: int) -> str:
    """A line with the times of a case in torch and accelerated."""
    eager, fast = (load_workflow(case.path, plugins=case.plugins, accelerate=name) for name in ("", "onnx"))
    rows, difference = [], 0.0
    for i in range(rounds + 1):
        params = case.params | ({"seed": i} if case.seeded else {})
        slow, expected = cpu_seconds(eager, params)
        quick, image = cpu_seconds(fast, params)
        difference = max(difference, float((image - expected).abs().max()) * 127.5)
        rows += [(slow, quick)] if i else []  # the first pair loads models, exports and compares
    ratios = [slow / quick for slow, quick in rows]
    times = [statistics.median(column) for column in zip(*rows, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f"{case.name:15} torch {times[0]:6.2f} s   accelerated {times[1]:6.2f} s   "
        f"ratio {statistics.median(ratios):.2f} ({spread})   {difference:.2f} levels"
    )


def measure_start(rounds: int) -> str:
    """CPU seconds and wall seconds of two-step runs in new processes, in turns, plain and accelerated."""
    rows: list[tuple[float, ...]] = []
    for _ in range(rounds + 1):
        row: list[float] = []
        for option in ([], ["--accelerate"]):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, "-m", "guidegraph", "run", str(CASES[0].path), "--set", "steps=2"]
                subprocess.run([*command, "--no-plugins", "-q", "--out", out, *option], check=True, env={**os.environ})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            row += [after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started]
        rows.append(tuple(row))
    plain, plain_wall, fast, fast_wall = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    return (
        f"a new process, two steps: plain {plain:.2f} s of CPU ({plain_wall:.2f} s), accelerated {fast:.2f} s "
        f"({fast_wall:.2f} s): {fast - plain:+.2f} s of CPU"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--only", default="", help="the cases whose name has this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.append(str(APG.parent))
    warnings.filterwarnings("error", message=".*not accelerated")
    print(machine(1))
    for case in CASES:
        if options.only in case.name:
            print(compare(case, options.rounds), flush=True)
    if options.start:
        print(measure_start(max(options.rounds // 2, 2)), flush=True)


if __name__ == "__main__":
    main()

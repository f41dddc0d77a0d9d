"""A sweep of 60 cells as a loop, and on a local Ray with one and with two workers.

    python benchmarks/sweep.py [--rounds 3] [--cells 60] [--steps 2]

Each side is a process of its own: `guidegraph sweep` of text_to_image.yaml with the embedded model and one thread a
worker. The sides take turns. Timed are the cells alone, from the fourth that ends to the last: to start Python, torch
and Ray and to load the model takes the same time however many cells there are. Prints the seconds a cell, the ratio of
one worker to two, the seconds of the whole command, whether all pictures are the same bit for bit, the machine and the
versions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bundle_speed import machine

TEXT_TO_IMAGE = Path(__file__).parents[1] / "workflows" / "text_to_image.yaml"
SIDES = {
    "loop": [],
    "Ray, one worker": ["--ray", "local", "--workers", "1"],
    "Ray, two workers": ["--ray", "local", "--workers", "2"],
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
WARM = 4
"""So many cells are not timed: the workers load their models in them."""


def sweep(out: Path, more: list[str], cells: int, steps: int) -> tuple[float, float]:
    """Seconds a cell, and of the whole command."""
    command = [sys.executable, "-m", "guidegraph", "sweep", str(TEXT_TO_IMAGE), "--seeds", f"0:{cells}"]
    command += ["--set", f"steps={steps}", "--out", str(out), "--json", *more]
    started = time.perf_counter()
    ended = []
    with subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "cell_finished":
                ended.append(time.perf_counter())
    if process.returncode or len(ended) != cells:
        raise SystemExit(f"the sweep failed with {process.returncode}: {' '.join(command)}")
    return (ended[-1] - ended[WARM - 1]) / (cells - WARM), time.perf_counter() - started


def pictures(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (out / "cells").glob("*/image.png")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    if options.cells <= WARM:
        parser.error(f"more than {WARM} cells are needed: the first ones are not timed")
    each: dict[str, list[float]] = {name: [] for name in SIDES}
    command_seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.rounds):
            for number, (name, more) in enumerate(SIDES.items()):
                out = Path(folder) / f"{i}-{number}"
                seconds, total = sweep(out, more, options.cells, options.steps)
                each[name].append(seconds)
                command_seconds[name].append(total)
                results.append(pictures(out))
    same = all(made == results[0] and len(made) == options.cells for made in results)
    print(f"{'side':20} {'s a cell':>9} {'s in all':>9}   (medians of {options.rounds} rounds in turn)")
    for name in SIDES:
        print(f"{name:20} {statistics.median(each[name]):9.3f} {statistics.median(command_seconds[name]):9.1f}")
    ratios = [a / b for a, b in zip(each["Ray, one worker"], each["Ray, two workers"], strict=True)]
    print(f"one worker to two: {statistics.median(ratios):.2f}, in rounds {', '.join(f'{r:.2f}' for r in ratios)}")
    print(
        f"{len(results)} sweeps of {options.cells} cells, pictures {'the same bit for bit' if same else 'NOT THE SAME'}"
    )
    print(f"{machine(1)}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

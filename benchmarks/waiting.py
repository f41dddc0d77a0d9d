"""Measure how long a person waits: for --help, validate, the parts of a run, an export, and a bundle without torch.

    python benchmarks/waiting.py [--trees CHECKOUT ...] [--plugins 5] [--rounds 5]

Each measurement is a process of its own, and the measurements take turns. Prints the median of seconds on the clock and
of CPU seconds. trees: checkouts to compare, by default this one. plugins: so many installed plugins that import torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKFLOW = "workflows/class_cfg.yaml"
PLUGIN = """
import torch
from guidegraph import Tensor, hookimpl, node

@node("{name}.double")
def double(x: Tensor) -> Tensor:
    "Twice the tensor."
    return 2 * x

@hookimpl
def guidegraph_nodes():
    return [double]
"""
RUN = """
import json, sys, time
times = [("", time.perf_counter(), time.process_time())]
mark = lambda name: times.append((name, time.perf_counter(), time.process_time()))
import torch
mark("run: import torch")
from guidegraph import NodeFinished, RunStarted, load_workflow
mark("run: other imports")
names = {RunStarted: "run: bind and plan", NodeFinished: "run: first node"}
def observe(event):
    if name := names.pop(type(event), ""):
        mark(name)
workflow = load_workflow(sys.argv[1], observers=[observe])
mark("run: plugins and load")
workflow.run(steps=3, batch=1)
mark("run: rest")
print(json.dumps([(name, wall - before[1], cpu - before[2]) for before, (name, wall, cpu) in zip(times, times[1:])]))
"""
Row = tuple[str, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=Path, nargs="+", default=[ROOT])
    parser.add_argument("--plugins", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print_machine()
    rows: dict[tuple[str, Path], list[Row]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_plugins(folder / "plugins", options.plugins)
        for turn in range(options.rounds + 1):
            for i, tree in enumerate(options.trees):
                measured = measure(tree.absolute(), folder, folder / f"tree-{i}")
                for row in measured:
                    if turn or row[0] == "export":  # the first round fills the caches, and exports once
                        rows[row[0], tree].append(row)
    for (name, tree), measured in sorted(rows.items(), key=lambda item: item[0][0]):
        wall = statistics.median(wall for _, wall, _ in measured)
        cpu = statistics.median(cpu for _, _, cpu in measured)
        print(f"{name:24} {tree.absolute()!s:24} {wall:6.2f} s, CPU {cpu:6.2f} s")


def measure(tree: Path, folder: Path, own: Path) -> list[Row]:
    """One measurement of everything by processes that import guidegraph from ``tree`` and write to ``own``."""
    workflow, bundle = str(tree / WORKFLOW), own / "bundle"
    sizes = ["--set", "steps=3", "--set", "batch=1"]
    guidegraph = ["-m", "guidegraph"]
    export = [*guidegraph, "export", workflow, "-o", str(bundle), *sizes]
    rows = [] if bundle.exists() else [time_process("export", export, tree, folder, own)[0]]
    rows += [
        time_process("help", [*guidegraph, "--help"], tree, folder, own)[0],
        time_process("nodes", [*guidegraph, "nodes"], tree, folder, own)[0],
        time_process("schema", [*guidegraph, "schema"], tree, folder, own)[0],
        time_process("validate", [*guidegraph, "validate", workflow], tree, folder, own)[0],
        time_process("plan", [*guidegraph, "plan", workflow], tree, folder, own)[0],
        time_process("draw", [*guidegraph, "draw", workflow], tree, folder, own)[0],
        time_process("bundle without torch", ["-m", "guidegraph_runtime", str(bundle), "--quiet"], tree, folder, own)[
            0
        ],
    ]
    run, output = time_process("run", ["-c", RUN, workflow], tree, folder, own)
    return [*rows, run, *map(tuple, json.loads(output))]


def time_process(name: str, arguments: list[str], tree: Path, folder: Path, own: Path) -> tuple[Row, str]:
    """Run Python in ``folder``; returns the time on the clock, that of its processors, and its output."""
    path = os.pathsep.join(map(str, (tree, tree / "runtime", folder / "plugins")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment["GUIDEGRAPH_LISTINGS"] = str(own / "listings")
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    before, started = os.times(), time.perf_counter()
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - started, os.times()
    if result.returncode:
        raise SystemExit(f"{name} failed in {tree}:\n{result.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return (name, wall, cpu), result.stdout


def write_plugins(folder: Path, count: int) -> None:
    """Install plugins that import torch into a folder: modules, with the metadata of a distribution each."""
    for name in (f"slow{i}" for i in range(count)):
        metadata = folder / f"{name}-1.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{name}.py").write_text(PLUGIN.format(name=name))
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[guidegraph]\n{name} = {name}\n")


def print_machine() -> None:
    names = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu")
    versions = {d.name: d.version for d in importlib.metadata.distributions() if d.name in names}
    packages = ", ".join(" ".join(pair) for pair in versions.items())
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")


if __name__ == "__main__":
    main()

"""Measure how long a person waits: for --help, validate, the parts of a run, an export, and a bundle without torch.

    python benchmarks/waiting.py [--trees CHECKOUT ...] [--skip export] [--plugins 5] [--rounds 5] [--beside] [--save]

Each measurement is a process of its own, and the measurements take turns. Prints the median of seconds on the clock and
of CPU seconds. trees: checkouts to compare, by default this one; the last release is one. skip: rows to leave out of
the trees after the first, such as an export that takes minutes. plugins: so many installed plugins that import torch.
beside: also the network alone in a PyTorch loop, the bundle's graphs alone in onnxruntime and OpenVINO, and a tiny
Stable Diffusion in diffusers; what is not installed is left out. save: append the medians of each tree to
benchmarks/history.jsonl, which `history.py` shows.
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
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
HISTORY = Path(__file__).with_name("history.jsonl")
WORKFLOW = "workflows/class_cfg.yaml"
MODEL = "workflows/models/fashion_class"
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
    parser.add_argument("--skip", nargs="+", default=[])
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    print_machine()
    rows: dict[tuple[str, Path], list[Row]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_plugins(folder / "plugins", options.plugins)
        for turn in range(options.rounds + 1):
            for i, tree in enumerate(options.trees):
                measured = measure(tree.absolute(), folder, folder / f"tree-{i}", options.skip if i else ())
                if options.beside and i == 0:
                    measured += measure_beside(tree.absolute(), folder, folder / f"tree-{i}")
                for row in measured:
                    if turn or row[0] == "export":  # the first round fills the caches, and exports once
                        rows[row[0], tree].append(row)
    for (name, tree), measured in sorted(rows.items(), key=lambda item: item[0][0]):
        wall = statistics.median(wall for _, wall, _ in measured)
        cpu = statistics.median(cpu for _, _, cpu in measured)
        print(f"{name:24} {tree.absolute()!s:24} {wall:6.2f} s, CPU {cpu:6.2f} s")
    if options.save:
        for tree in options.trees:
            save({name: measured for (name, origin), measured in rows.items() if origin == tree}, tree)


def measure_beside(tree: Path, folder: Path, own: Path) -> list[Row]:
    """Measure processes that use the same network, or a pipeline of diffusers, without the engine."""
    script = str(Path(__file__).with_name("_beside_process.py"))
    arguments = {
        "beside: PyTorch loop": [script, "bare", str(tree / MODEL)],
        "beside: onnxruntime": [script, "onnxruntime", str(own / "bundle")],
    }
    if find_spec("openvino"):
        arguments["beside: OpenVINO"] = [script, "openvino", str(own / "bundle")]
    if find_spec("diffusers"):
        from _pipelines import pipeline_folder

        drawing = [str(pipeline_folder("tiny", folder)), str(own / "diffusers.png"), "3", "64"]
        arguments["beside: diffusers, tiny SD"] = [str(Path(__file__).with_name("_diffusers_process.py")), *drawing]
    return [time_process(name, each, tree, folder, own)[0] for name, each in arguments.items()]


def save(rows: dict[str, list[Row]], tree: Path) -> None:
    """Append the medians of a tree as one line of JSON, with its commit, the machine and its load."""
    commit = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip(),
        "machine": describe_machine(),
        "load": round(os.getloadavg()[2], 1),
        "rows": {
            name: [round(statistics.median(row[part] for row in measured), 3) for part in (1, 2)]
            for name, measured in sorted(rows.items())
        },
    }
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def measure(tree: Path, folder: Path, own: Path, skip: Collection[str]) -> list[Row]:
    """One measurement of everything by processes that import guidegraph from ``tree`` and write to ``own``.

    skip: rows to leave out.
    """
    workflow, bundle = str(tree / WORKFLOW), own / "bundle"
    guidegraph = ["-m", "guidegraph"]
    sizes = ["--set", "steps=3", "--set", "batch=1"]
    commands = {
        "export": [*guidegraph, "export", workflow, "-o", str(bundle), *sizes],
        "help": [*guidegraph, "--help"],
        "nodes": [*guidegraph, "nodes"],
        "schema": [*guidegraph, "schema"],
        "validate": [*guidegraph, "validate", workflow],
        "plan": [*guidegraph, "plan", workflow],
        "draw": [*guidegraph, "draw", workflow],
        "run by command": [*guidegraph, "run", workflow, "--out", str(own / "run"), *sizes],
        "bundle without torch": ["-m", "guidegraph_runtime", str(bundle), "--quiet"],
    }
    without = {*skip, *(["export"] if bundle.exists() else [])}
    if "export" in skip:
        without.add("bundle without torch")
    rows = [time_process(name, each, tree, folder, own)[0] for name, each in commands.items() if name not in without]
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
    print(describe_machine())


def describe_machine() -> str:
    names = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu")
    versions = {d.name: d.version for d in importlib.metadata.distributions() if d.name in names}
    packages = ", ".join(" ".join(pair) for pair in versions.items())
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()

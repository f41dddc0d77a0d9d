"""Measure the CPU seconds of exports, in turns with those of other checkouts, and compare the graphs.

    python benchmarks/export.py [--trees CHECKOUT ...] [--rounds 2] [--only NAME] [--keep FOLDER]

Three workflows: text_to_image.yaml, classifier guidance with its gradient, and a pipeline of Stable Diffusion's kind
with small random networks, which diffusers writes to the folder of `--keep`. Each export is a process with one thread.
Prints the median CPU seconds of each checkout and the median ratio to the first one, and for each bundle the opset, the
number of operations, the size of its graphs, and the largest difference of its outputs from the first checkout's after
three steps.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _pipelines import pipeline_folder
from waiting import print_machine

from guidegraph_runtime import Bundle

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A workflow, by its path in a checkout, and the parameters that are set."""

    name: str
    workflow: str
    params: dict[str, Any] = field(default_factory=dict)


def list_cases(folder: Path) -> Iterator[Case]:
    yield Case("text", "workflows/text_to_image.yaml")
    yield Case("classifier", "workflows/class_classifier_guidance_ddim.yaml")
    pipeline = {"checkpoint": pipeline_folder("tiny", folder), "prompt": "a b c", "shape": [4, 16, 16]}
    yield Case("tiny", "workflows/checkpoints/text_to_image.yaml", pipeline)


def export(tree: Path, case: Case, bundle: Path) -> float:
    """The CPU seconds of an export."""
    settings = [option for key, value in case.params.items() for option in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "guidegraph", "export", str(tree / case.workflow), "-o", str(bundle), *settings]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "runtime")))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, "--no-plugins"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=bundle.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_bundle(folder: Path) -> dict[str, Any]:
    """The outputs of a bundle after three steps."""
    bundle = Bundle(folder)
    return dict(bundle.run(**({"steps": 3} if "steps" in bundle.manifest.inputs else {})))


def describe_graphs(folder: Path) -> str:
    """The opsets, the number of operations and the size of a bundle's graphs."""
    models = [onnx.load(path, load_external_data=False) for path in sorted(folder.glob("*.onnx"))]
    opsets = sorted({entry.version for model in models for entry in model.opset_import if not entry.domain})
    size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    operations = sum(len(model.graph.node) for model in models)
    return f"opset {', '.join(map(str, opsets))}, {operations} operations, {size / 1e6:.2f} MB"


def compare_trees(case: Case, trees: list[Path], rounds: int, folder: Path) -> None:
    """Export a case from each checkout in turns, and print the times and the differences."""
    bundles = [folder / f"{case.name}-{i}" for i in range(len(trees))]
    rows = [[export(tree, case, bundle) for tree, bundle in zip(trees, bundles, strict=True)] for _ in range(rounds)]
    expected = run_bundle(bundles[0])
    for i, (tree, bundle) in enumerate(zip(trees, bundles, strict=True)):
        seconds = statistics.median(row[i] for row in rows)
        ratio = statistics.median(row[0] / row[i] for row in rows)
        outputs = run_bundle(bundle)
        difference = max(float(np.abs(np.subtract(outputs[name], expected[name])).max()) for name in expected)
        print(
            f"{case.name:10} {tree!s:28} CPU {seconds:6.1f} s, ratio {ratio:.2f}; {describe_graphs(bundle)}; "
            f"difference {difference:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trees", type=Path, nargs="+", default=[ROOT])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="the cases whose name has this text")
    parser.add_argument("--keep", type=Path, help="the folder of the pipeline and of the bundles")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for case in list_cases(folder):
            if options.only in case.name:
                compare_trees(case, [tree.absolute() for tree in options.trees], options.rounds, folder)


if __name__ == "__main__":
    main()

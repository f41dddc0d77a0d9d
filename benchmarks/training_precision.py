"""Measure a training step in each precision, and print the choice of `precision: auto` on this machine.

    python benchmarks/training_precision.py [--rounds 3] [--steps 3] [--batch 16] [--workflow workflows/train/…]
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/training_precision.py

A shipped training workflow runs in `auto`, `fp32` and `bf16`, in turn in one process, each from its first step. The
CPU time between the ends of two steps is measured, so that other work on the machine counts little; the first step of
a run is left out. Prints medians, their ratio to fp32, the machine and the versions.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bundle_speed import machine

from guidegraph import Event, LoopProgress, TrainingStarted, load_workflow

WORKFLOW = Path(__file__).parents[1] / "workflows" / "train" / "text_to_image.yaml"
PRECISIONS = ("auto", "fp32", "bf16")


def step_times(workflow: Path, steps: int, batch: int, folder: Path) -> tuple[str, list[float]]:
    """The precision that was taken, and the CPU seconds of each step but the first."""
    taken: list[str] = []
    ends: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            taken.append(event.precision)
        elif isinstance(event, LoopProgress):
            ends.append(time.process_time())

    saved = {"path": folder / "model", "checkpoint": folder / "checkpoint"}
    load_workflow(workflow, cache="off", observers=[observe]).run(steps=steps + 1, batch=batch, **saved)
    for file in folder.rglob("state.safetensors"):
        file.unlink()
    return taken[-1], [end - start for start, end in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    taken: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = arguments.workflow.read_text(encoding="utf-8")
        files = {}
        for precision in PRECISIONS:
            files[precision] = folder / f"{precision}.yaml"
            files[precision].write_text(re.sub(r"precision: \w+", f"precision: {precision}", text), encoding="utf-8")
        for _ in range(arguments.rounds):
            for precision in PRECISIONS:
                taken[precision], times = step_times(files[precision], arguments.steps, arguments.batch, folder)
                seconds[precision] += times
    medians = {precision: statistics.median(times) for precision, times in seconds.items()}
    print(f"{arguments.workflow.stem}, batch {arguments.batch}: CPU milliseconds of a training step, medians\n")
    print("| precision | computed in | ms | times fp32 |\n| --- | --- | --- | --- |")
    for precision in PRECISIONS:
        ratio = medians[precision] / medians["fp32"]
        print(f"| {precision} | {taken[precision]} | {1000 * medians[precision]:.0f} | {ratio:.2f} |")
    print(f"\nONEDNN_MAX_CPU_ISA: {os.environ.get('ONEDNN_MAX_CPU_ISA', 'not set')}; {machine(arguments.threads)}")


if __name__ == "__main__":
    main()

"""Write a table for a sweep in which the training of every cell takes the same time on this machine.

    python tools/equal_compute.py workflows/experiments/full/ldm.csv --seconds 3600 --device cuda -o ldm-here.csv

Each row's workflow is trained for a few steps and for some more, and the difference gives the time of a step. The rows
are written with the steps of each stage that take `--seconds` in all stages together, as many as the row or else the
workflow gives. The first stages must exist.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from guidegraph import load_workflow
from guidegraph_runtime.files.atomic_write import write_text


def seconds_of(workflow: Path, row: dict[str, str], steps: int, device: str) -> float:
    """Wall-clock seconds of a process that trains one stage of so many steps. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**row, "stages": "1", "steps": str(steps), "path": str(Path(folder) / "model")}
        command = [sys.executable, "-m", "guidegraph", "run", str(workflow), "--only", "model"]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        began = time.perf_counter()
        done = subprocess.run([*command, "--device", device, "--out", folder], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{workflow} failed with {settings}:\n{done.stderr.strip()}")
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="a CSV of parameters with a column steps")
    parser.add_argument("--workflow", type=Path, default=Path("workflows/experiments/ldm.yaml"))
    parser.add_argument("--seconds", type=float, required=True, help="of training in each row")
    parser.add_argument("--tried", type=int, nargs=2, default=(5, 25), metavar=("FEW", "MORE"), help="steps to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    with arguments.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "steps" not in rows[0]:
        raise SystemExit(f"{arguments.table}: expected rows with a column steps")
    default = load_workflow(arguments.workflow).graph.params["stages"].default
    few, more = arguments.tried
    for row in rows:
        stages = int(row.get("stages") or default)
        taken = [seconds_of(arguments.workflow, row, steps, arguments.device) for steps in (few, more)]
        step_seconds = (taken[1] - taken[0]) / (more - few)
        if step_seconds <= 0:
            raise SystemExit(f"{more} steps took no longer than {few}: give --tried more steps")
        row["steps"] = str(max(1, round(arguments.seconds / stages / step_seconds)))
        first = next(iter(row))
        print(f"{first} {row[first]}: {step_seconds:.4f} s a step, {row['steps']} steps in each of {stages} stages")

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(arguments.output, text.getvalue())
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

"""Run the comparisons of released checkpoints with diffusers, and print the differences as one table.

    python tools/checkpoint_table.py

Needs the extra `test`. The figures are those that the tests assert: the largest difference, or for latents after all
steps the distance relative to the norm. Of several comparisons in one test the worst counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = (
    "test_load.py",
    "compvis/test_vq_file.py",
    "compvis/test_released_workflows.py",
    "test_released_samplers.py",
    "diffusers/test_lora_peft.py",
)


def run_tests(file: Path) -> list[dict[str, Any]]:
    """The figures of all comparisons; ends the program where one of them fails."""
    tests = [str(ROOT / "tests" / "nodes" / "checkpoints" / name) for name in TESTS]
    environment = {**os.environ, "GUIDEGRAPH_FIGURES": str(file)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env=environment, capture_output=True
    )
    if done.returncode:
        sys.exit(done.stdout.decode())
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = run_tests(Path(folder) / "figures.jsonl")
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for figure in figures:
        key = (figure["test"].removeprefix("test_").replace("_", " ", figure["test"].count("_")), figure["what"])
        worst[key] = max(worst.get(key, (0.0, 0.0)), (figure["value"], figure["bound"]))
    names = ("guidegraph", "torch", "diffusers", "transformers", "peft")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}; float32 on the CPU.\n")
    print("| comparison | of what | found | bound |")
    print("| --- | --- | --- | --- |")
    for (test, what), (value, bound) in worst.items():
        print(f"| {test} | {what} | {value:.1e} | {bound:g} |")


if __name__ == "__main__":
    main()

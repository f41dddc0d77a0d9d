"""Count what a step of shipped workflows asks of a GPU: python -m tests.device.count_steps NAME …

Prints a JSON object by workflow. kernels, blocking, waits: of one step, as the difference between a run of eight and a
run of four. lines: where in this project a step waits for the device, or copies pageable memory. difference: the
largest one between the pictures of the device and of the CPU, which are in [-1, 1].
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from typing import Any

from guidegraph_testing import simulated_cuda

if __name__ == "__main__":
    simulated_cuda.load()

from guidegraph import Workflow, load_workflow
from tests.paths import ROOT

GALLERY = "gallery/"
FEW, MANY = 4, 8
PARAMS: dict[str, dict[str, Any]] = {"image_to_image": {"strength": 1.0}, "image_to_image_128": {"strength": 1.0}}
"""Parameters with which the number of steps is the number of iterations."""


def load(name: str, device: str) -> Workflow:
    """A workflow of workflows/, or ``gallery/PLUGIN/NAME`` of a plugin there."""
    if not name.startswith(GALLERY):
        return load_workflow(ROOT / "workflows" / f"{name}.yaml", device=device, cache="off")
    plugin, _, file = name.removeprefix(GALLERY).partition("/")
    folder, package = ROOT / "plugins" / GALLERY / plugin, f"guidegraph_{plugin}"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return load_workflow(folder / package / f"{file}.yaml", plugins=[package], device=device, cache="off")


def run_counted(name: str, steps: int) -> tuple[Counter[str], Counter[str], Any]:
    """The events of a run on the device by kind, the lines of those that hold up the host, and the picture."""
    workflow = load(name, "cuda")
    with simulated_cuda.record() as events:
        image = workflow.run(steps=steps, seed=1, **PARAMS.get(name, {}))["image"]
    lines = Counter(f"{event.kind}: {event.name} at {event.line}" for event in events if event.kind in HOLDS_UP)
    return Counter(event.kind for event in events), lines, image.cpu()


HOLDS_UP = ("blocking", "wait")


def count_steps(name: str) -> dict[str, Any]:
    """The row of a workflow."""
    kinds, lines, image = run_counted(name, FEW)
    more_kinds, more_lines, _ = run_counted(name, MANY)
    per_step = {kind: (more_kinds[kind] - kinds[kind]) / (MANY - FEW) for kind in ("kernel", *HOLDS_UP)}
    expected = load(name, "cpu").run(steps=FEW, seed=1, **PARAMS.get(name, {}))["image"]
    return {
        **per_step,
        "lines": sorted(more_lines - lines),
        "difference": float((image - expected).abs().max()),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.stdout.write(json.dumps({name: count_steps(name) for name in sys.argv[1:]}) + "\n")

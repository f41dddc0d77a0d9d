"""Run three steps with the node ``mutant.spoil`` of a file on the device: python -m tests.device.run_mutant FILE.

Prints a JSON object: the lines where it waits or copies pageable memory, or the error that ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from guidegraph_testing import simulated_cuda

if __name__ == "__main__":
    simulated_cuda.load()

from guidegraph import GuidegraphError, load_workflow

WORKFLOW = """guidegraph: 1
nodes:
  noise: {use: noise.gaussian, with: {shape: [4, 8, 8], batch: 2, seed: 0}}
  schedule: {use: schedule.linear}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}, with: {steps: 3}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise}
    body:
      spoilt: {use: mutant.spoil, in: {x: carry.x}}
    next: {x: spoilt}
outputs: {x: sample.x}
"""

if __name__ == "__main__":
    plugin = Path(sys.argv[1])
    file = plugin.with_name("mutant.yaml")
    file.write_text(WORKFLOW, encoding="utf-8")
    row: dict[str, object] = {}
    with simulated_cuda.record() as events:
        try:
            load_workflow(file, plugins=[str(plugin)], device="cuda", cache="off").run()
        except GuidegraphError as error:
            row["error"] = str(error)
    ours = [event for event in events if event.line.startswith("mutant")]
    row |= {kind: [f"{e.name} at {e.line}" for e in ours if e.kind == kind] for kind in ("wait", "blocking")}
    row["waits"] = row.pop("wait")
    sys.stdout.write(json.dumps(row) + "\n")

"""Count what a step of each sampler asks of a GPU: python -m tests.device.count_samplers FOLDER.

Draws with an untrained U-Net, in files that it writes into FOLDER. Prints a JSON object by sampler. kernel: how
many more an 8-step run has than a 4-step run. lines: where a step waits for the device or copies pageable memory. size
and difference: the largest value of the CPU's samples, and the largest difference on the device.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from guidegraph_testing import simulated_cuda

if __name__ == "__main__":
    simulated_cuda.load()

from guidegraph import load_workflow
from guidegraph.nodes.sampling.scheduler_by_name import SamplerName
from tests.device.count_steps import FEW, HOLDS_UP, MANY

WORKFLOW = """guidegraph: 1
params: {{steps: 4}}
nodes:
  denoiser:
    use: model.unet
    with: {{channels: 32, multipliers: [1, 2], attention: [], context_dim: null, vector_dim: null, kind: {kind}}}
  noise: {{use: noise.gaussian, with: {{shape: [4, 8, 8], batch: 2, seed: 0}}}}
  schedule: {{use: {schedule}}}
  scheduler:
    {{use: scheduler.named, in: {{schedule: schedule, steps: params.steps}}, with: {{sampler: {sampler}, clip: true}}}}
  sample:
    loop: {{over: scheduler.steps, as: t}}
    carry: {{x: noise, state: scheduler.state}}
    body:
      predicted: {{use: denoiser.predict, in: {{denoiser: denoiser, x: carry.x, t: loop.t}}}}
      fresh: {{use: noise.gaussian, in: {{like: carry.x, index: loop.index}}, with: {{seed: 1}}}}
      step:
        use: scheduler.step
        in:
          scheduler: scheduler.scheduler
          x: carry.x
          prediction: predicted
          noise: fresh
          state: carry.state
          t: loop.t
    next: {{x: step.x, state: step.state}}
outputs: {{x: sample.x}}
"""


def count_sampler(sampler: str, folder: Path) -> dict[str, Any]:
    """The row of a sampler."""
    is_flow = sampler.endswith("_flow")
    kind, schedule = ("flow", "schedule.flow") if is_flow else ("eps", "schedule.linear")
    file = folder / f"{sampler}.yaml"
    file.write_text(WORKFLOW.format(sampler=sampler, kind=kind, schedule=schedule), encoding="utf-8")
    workflow = load_workflow(file, device="cuda", cache="off")
    kernels, lines = [], []
    for steps in (FEW, MANY):
        with simulated_cuda.record() as events:
            actual = workflow.run(steps=steps)["x"]
        kernels.append(sum(event.kind == "kernel" for event in events))
        lines.append(
            Counter(f"{event.kind}: {event.name} at {event.line}" for event in events if event.kind in HOLDS_UP)
        )
    expected = load_workflow(file, device="cpu", cache="off").run(steps=MANY)["x"]
    return {
        "kernel": kernels[1] - kernels[0],
        "lines": sorted(lines[1] - lines[0]),
        "size": float(expected.abs().max()),
        "difference": float((actual.cpu() - expected).abs().max()),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.stdout.write(
        json.dumps({name: count_sampler(name, Path(sys.argv[1])) for name in get_args(SamplerName)}) + "\n"
    )

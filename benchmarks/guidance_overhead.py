"""Measure the cost per step of the guidance hooks when no method uses them.

    python benchmarks/guidance_overhead.py [--rounds 15] [--steps 30]

Two workflows take turns in one process: text_to_image.yaml, and the same with a context made at every step
(`guidance.context`) and handed to a node that gives its prediction back unchanged. Both are timed with the embedded
model, and with a prediction made before the loop in the place of the model, where the difference is not lost in the
noise of the machine. The hooks of the denoiser that nobody uses: how often a forward asks for one, and what one such
question costs, over a million of them. Prints medians, their ratios, the machine and the versions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bundle_speed import machine

from guidegraph import Condition, Prediction, StepContext, hookimpl, load_workflow, node
from guidegraph.graph.paths import resolve_path
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Hooks
from guidegraph.workflow import Workflow

TEXT_TO_IMAGE = Path(__file__).parents[1] / "workflows" / "text_to_image.yaml"
STEP = "      step:\n        use: scheduler.step\n"
HERE = "{scheduler: scheduler.scheduler, x: carry.x, state: carry.state, t: loop.t}"
WITH_CONTEXT = (
    f"      here: {{use: guidance.context, in: {HERE}}}\n"
    "      same: {use: overhead.same, in: {prediction: guided, context: here}}\n"
)
NO_MODEL = """
guidegraph: 1
params: {steps: 30}
nodes:
  schedule:  {use: schedule.scaled_linear}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}}
  noise:     {use: noise.gaussian, with: {shape: [4, 16, 16]}}
  guided:    {use: overhead.still, in: {x: noise}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""


@node("overhead.same")
def same(prediction: Prediction, context: StepContext) -> Prediction:
    """The prediction, with a context at hand that is not looked at."""
    return prediction


@node("overhead.still")
def still(x: torch.Tensor) -> Prediction:
    """A prediction that takes no time."""
    return Prediction(torch.zeros_like(x), "eps")


@hookimpl
def guidegraph_nodes() -> list[Callable[..., object]]:
    return [same, still]


def workflow(text: str, folder: Path, name: str) -> Workflow:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_workflow(path, plugins=(__name__,), cache="off")


def with_context(text: str) -> str:
    assert STEP in text
    return text.replace(STEP, WITH_CONTEXT + STEP).replace("prediction: guided, state", "prediction: same, state")


def pair(text: str, folder: Path, name: str) -> tuple[Workflow, Workflow]:
    """The workflow without and with a context in its body."""
    return workflow(text, folder, f"{name}.yaml"), workflow(with_context(text), folder, f"{name}_context.yaml")


def per_step(pairs: tuple[Workflow, Workflow], steps: int, rounds: int) -> tuple[float, float]:
    """Median seconds per step of both, run in turn; a run of one step is subtracted for the time outside the loop."""
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 1):
        for which in (0, 1) if index % 2 else (1, 0):
            times = []
            for count in (steps, 1):
                started = time.perf_counter()
                pairs[which].run(steps=count)
                times.append(time.perf_counter() - started)
            if index:
                taken[which].append((times[0] - times[1]) / (steps - 1))
    return statistics.median(taken[0]), statistics.median(taken[1])


def unused_hooks() -> tuple[int, float]:
    """How often one forward of the embedded denoiser asks for a hook, and seconds for all of these questions."""
    denoiser: Any = load_model(path=resolve_path("pkg:scenes", Path())).denoiser
    queries: list[tuple[str, tuple[Any, ...]]] = []

    class Counting(Hooks):
        def attend(self, *hook_arguments: Any) -> Any:
            queries.append(("attend", hook_arguments))
            return super().attend(*hook_arguments)

        def skip(self, *hook_arguments: Any) -> Any:
            queries.append(("skip", hook_arguments))
            return super().skip(*hook_arguments)

        def feature(self, *hook_arguments: Any) -> Any:
            queries.append(("feature", hook_arguments))
            return super().feature(*hook_arguments)

    x, tokens = torch.zeros(1, 4, 16, 16), torch.zeros(1, 24, 128)
    condition = Condition(torch.zeros(1, 128), tokens, torch.ones(1, 24, dtype=torch.bool))
    denoiser(x, torch.zeros(1), condition, Counting())
    total = 0.0
    for name in dict.fromkeys(name for name, _ in queries):
        calls = [hook_arguments for hook_name, hook_arguments in queries if hook_name == name]
        question, hook_arguments = getattr(NO_HOOKS, name), calls[0]
        started = time.perf_counter()
        for _ in range(1_000_000):
            question(*hook_arguments)
        total += len(calls) * (time.perf_counter() - started) / 1e6
    return len(queries), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = per_step(pair(TEXT_TO_IMAGE.read_text(), folder, "model"), arguments.steps, arguments.rounds)
        bare = per_step(pair(NO_MODEL, folder, "bare"), 300, arguments.rounds)
    print(f"a step of the embedded model: {1e3 * model[0]:.3f} ms, with a context {1e3 * model[1]:.3f} ms")
    print(f"a step without a model: {1e6 * bare[0]:.1f} µs, with a context {1e6 * bare[1]:.1f} µs")
    calls, seconds = unused_hooks()
    share = 100 * seconds / model[0]  # the two calls of classifier-free guidance are one forward
    print(f"a context costs {1e6 * (bare[1] - bare[0]):.1f} µs: {100 * (bare[1] - bare[0]) / model[0]:.3f} % of a step")
    print(f"{calls} hooks that nobody uses cost {1e6 * seconds:.1f} µs a forward: {share:.3f} % of a step")


if __name__ == "__main__":
    main()

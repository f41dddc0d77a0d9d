"""Noise of samplers: wired in every workflow, and drawn only if the table reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guidegraph import WorkflowError, load_workflow
from guidegraph.graph.events import Event, NodeTotals
from guidegraph.graph.planning.passes import ALL_PASSES
from tests.nodes.sampling import toy_denoiser
from tests.paths import ROOT

GALLERY = ROOT / "plugins" / "gallery"
TEMPLATE = ROOT / "guidegraph" / "commands" / "template" / "guidance" / "package" / "text_to_image.yaml.txt"
FRESH = "      fresh: {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}\n"
TEXT = f"""guidegraph: 1
params: {{seed: 3, eta: 0.0}}
nodes:
  schedule: {{use: schedule.scaled_linear}}
  early: {{use: toy.predict, in: {{x: noise}}, with: {{index: -1}}}}
  noise: {{use: noise.gaussian, in: {{seed: params.seed}}, with: {{shape: [4, 8, 8], batch: 2}}}}
  sampler: {{use: scheduler.ddim, in: {{schedule: schedule, eta: params.eta}}, with: {{steps: 6}}}}
  sample:
    loop: {{over: sampler.steps, as: t}}
    carry: {{x: noise, state: sampler.state}}
    body:
      pred: {{use: toy.predict, in: {{x: carry.x, index: loop.index}}}}
{FRESH}      step:
        use: scheduler.step
        in: {{scheduler: sampler.scheduler, x: carry.x, prediction: pred, noise: fresh, state: carry.state, t: loop.t}}
    next: {{x: step.x, state: step.state}}
    collect: {{path: step.x}}
outputs: {{path: sample.path, early: early}}
"""
WITHOUT = TEXT.replace(FRESH, "").replace("noise: fresh, ", "")


@pytest.fixture(autouse=True)
def _fresh_calls() -> None:
    toy_denoiser.CALLS.clear()


def run(folder: Path, text: str, passes: Any = None, **params: Any) -> tuple[torch.Tensor, dict[str, int]]:
    """The samples after each step, and how often each node of the body was called."""
    path, counts = folder / "w.yaml", {}

    def count(event: Event) -> None:
        if isinstance(event, NodeTotals):
            counts[event.path.rpartition(".")[2]] = event.calls

    path.write_text(text)
    workflow = load_workflow(
        path, cache="off", plugins=["tests.nodes.sampling.toy_denoiser"], observers=[count], passes=passes
    )
    return workflow.run(**params)["path"], counts


def test_a_deterministic_sampler_draws_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    wired, counts = run(tmp_path, TEXT)
    assert counts == {"pred": 6, "step": 6}
    computed, all_counts = run(tmp_path, TEXT, ALL_PASSES - {"skip"})
    assert all_counts == {"pred": 6, "fresh": 6, "step": 6}
    unwired, _ = run(tmp_path, WITHOUT)
    assert torch.equal(wired, unwired)
    assert torch.equal(wired, computed)


def test_a_stochastic_sampler_draws_fresh_noise_at_each_step(tmp_path: Path) -> None:
    noisy, counts = run(tmp_path, TEXT, eta=1.0)
    assert counts == {"pred": 6, "fresh": 6, "step": 6}
    again, _ = run(tmp_path, TEXT.replace("ddim", "ddpm").replace(", eta: params.eta", ""))
    assert not torch.equal(noisy, run(tmp_path, TEXT)[0])
    torch.testing.assert_close(noisy, again)


def test_missing_noise_is_reported_before_any_model_is_called(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        run(tmp_path, WITHOUT, eta=1.0)
    (problem,) = caught.value.problems
    assert toy_denoiser.CALLS == []
    assert str(problem).startswith(f"{tmp_path / 'w.yaml'}:13:7: missing-port: scheduler.step: port 'noise': ")
    assert "`fresh: {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}`" in str(problem)
    assert str(problem).endswith("[nodes.sample.body.step]")


def test_a_score_for_rows_without_variance_is_reported_at_its_link(tmp_path: Path) -> None:
    pull = FRESH.replace("fresh:", "pull:").partition("{")[0] + "{use: toy.pull, in: {x: carry.x}}\n"
    text = TEXT.replace(FRESH, FRESH + pull).replace("noise: fresh, ", "noise: fresh, score: pull, ")
    with pytest.raises(WorkflowError) as caught:
        run(tmp_path, text)
    (problem,) = caught.value.problems
    assert toy_denoiser.CALLS == []
    assert problem.code == "unfit-port"
    assert "port 'score': this sampler's steps have no variance" in problem.message
    line = (tmp_path / "w.yaml").read_text().splitlines()[problem.mark.line - 1]
    assert line[problem.mark.column - 1 :].startswith("score: pull")


def test_an_unwired_port_of_a_sub_workflow_is_reported_too(tmp_path: Path) -> None:
    """An unwired port of a workflow used as a node, at its default null, does not count as wired."""
    block = tmp_path / "block.yaml"
    block.write_text("""guidegraph: 1
params:
  scheduler: {type: Scheduler}
  state: {type: SchedulerState}
  x: {type: Sample}
  t: {type: Timesteps}
  pred: {type: Prediction}
  noise: {type: Noise | None, default: null}
nodes:
  step:
    use: scheduler.step
    in:
      scheduler: params.scheduler
      x: params.x
      prediction: params.pred
      noise: params.noise
      state: params.state
      t: params.t
outputs: {x: step.x, state: step.state}
""")
    text = WITHOUT.replace("use: scheduler.step", "use: ./block.yaml").replace("prediction: pred", "pred: pred")
    drawn, _ = run(tmp_path, text)
    assert torch.equal(drawn, run(tmp_path, WITHOUT)[0])
    toy_denoiser.CALLS.clear()
    with pytest.raises(WorkflowError, match=r"block.yaml:16:7: missing-port: scheduler.step: port 'noise'"):
        run(tmp_path, text, eta=1.0)
    assert toy_denoiser.CALLS == []


def workflows_with_steps() -> Iterator[Any]:
    """Every workflow with a sampler's step, of this package, of its plugins and of the template of a plugin."""
    for path in [*sorted((ROOT / "workflows").rglob("*.yaml")), *sorted(GALLERY.rglob("*.yaml")), TEMPLATE]:
        if "use: scheduler.step" in path.read_text(encoding="utf-8"):
            yield pytest.param(path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", workflows_with_steps())
def test_every_shipped_loop_wires_separate_noise_to_each_step(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8").replace("@", ""))
    steps = [*bodies_with_steps(workflow["nodes"])]
    assert steps
    for body, step in steps:
        source = step["in"]["noise"]
        if source == "params.noise":  # of a block, whose body has it
            assert workflow["params"]["noise"]["type"] == "Noise | None"
            continue
        assert body[source]["use"] == "noise.gaussian"
        assert body[source]["in"]["like"] == "carry.x"
        assert body[source]["in"]["index"] == "loop.index"
        assert body[source]["in"]["seed"] == "params.seed"


def bodies_with_steps(nodes: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each `scheduler.step` with the nodes beside it."""
    for node in nodes.values():
        if node.get("use") == "scheduler.step":
            yield nodes, node
        yield from bodies_with_steps(node.get("body", {}))

"""Training loops: the trained models, the results, and that an interrupted run resumes to the same losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Cancelled, NodeError, WorkflowError
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from guidegraph.graph.execution.call import PortError
from guidegraph.graph.execution.run import Attachments, RunConfig, run
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Literal
from guidegraph.graph.training.fit import OptimisedModel
from guidegraph.graph.training.trained_model import prepare_model
from tests.graph.engine_nodes import REGISTRY, run_text
from tests.graph.training.test_live_models import Partly


def text(steps: int = 40, checkpoint: bool = False, ema: str = "", dropout: float = 0.0, extra: str = "") -> str:
    saved = "checkpoint: {path: ckpt, every: 5}" if checkpoint else ""
    return f"""
nodes:
  start: {{use: toy.line, with: {{seed: 3}}}}
  data: {{use: toy.batches}}
  fit:
    loop: {{over: data, as: batch}}
    carry: {{net: start}}
    body:
      loss: {{use: toy.loss, in: {{model: carry.net, x: loop.batch.x, y: loop.batch.y}}, with: {{dropout: {dropout}}}}}
    train:
      - {{model: net, loss: loss, optimizer: adamw, lr: 0.05{ema}{extra}}}
    steps: {steps}
    {saved}
    collect: {{loss: loss}}
outputs: {{net: fit.net, loss: fit.loss, start: start}}
"""


def test_training_learns_and_leaves_the_start_alone(tmp_path: Path) -> None:
    out = run_text(text(400), tmp_path).outputs
    assert out["loss"].shape == (400,)
    assert out["loss"][-1] < 1e-3 * out["loss"][0]
    torch.testing.assert_close(out["net"].weight, torch.tensor([[1.0, -2.0, 3.0]]), rtol=0, atol=0.05)
    assert not torch.equal(out["start"].weight, out["net"].weight)
    assert not out["net"].weight.requires_grad
    assert not out["net"].training


def test_the_same_workflow_gives_the_same_losses(tmp_path: Path) -> None:
    first = run_text(text(dropout=0.3), tmp_path).outputs["loss"]
    torch.rand(7)
    assert torch.equal(first, run_text(text(dropout=0.3), tmp_path).outputs["loss"])


def test_training_leaves_torchs_generator_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_text(text(5, dropout=0.3), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_moving_average_is_the_result_where_asked(tmp_path: Path) -> None:
    live = run_text(text(60), tmp_path).outputs["net"].weight
    mean = run_text(text(60, ema=", ema: 0.99"), tmp_path).outputs["net"].weight
    target = torch.tensor([[1.0, -2.0, 3.0]])
    assert (mean - target).norm() > (live - target).norm()


LINKS = ", ema: params.ema, warmup: params.warmup, start: params.start, clip: params.clip, weight_decay: params.decay"
LITERALS = ", ema: 0.9, warmup: 3, start: 2, clip: 0.5, weight_decay: 0.1"
VALUES = {"lr": 0.05, "ema": 0.9, "warmup": 3, "start": 2, "clip": 0.5, "decay": 0.1}


def linked(checkpoint: bool = False) -> str:
    return f"params: {json.dumps(VALUES)}" + text(20, checkpoint, extra=LINKS).replace("lr: 0.05", "lr: params.lr")


def test_options_that_are_parameters_train_as_literals_do(tmp_path: Path) -> None:
    wanted = run_text(text(20, extra=LITERALS), tmp_path).outputs
    actual = run_text(linked(), tmp_path, VALUES).outputs
    assert torch.equal(actual["loss"], wanted["loss"])
    assert torch.equal(actual["net"].weight, wanted["net"].weight)
    other = run_text(linked(), tmp_path, {**VALUES, "lr": 0.01}).outputs
    assert not torch.equal(other["net"].weight, wanted["net"].weight)


def test_a_checkpoint_is_not_that_of_another_rate(tmp_path: Path) -> None:
    run_text(linked(checkpoint=True), tmp_path, VALUES)
    with pytest.raises(NodeError, match="another training"):
        run_text(linked(checkpoint=True), tmp_path, {**VALUES, "lr": 0.01})


def test_a_used_workflow_trains_at_the_rate_that_it_is_given(tmp_path: Path) -> None:
    inner = text(5).replace("lr: 0.05", "lr: params.lr").replace(", start: start}", "}")
    (tmp_path / "fit.yaml").write_text(f"guidegraph: 1\nparams: {{lr: 0.5}}\n{inner}")
    outer = "params: {rate: 0.05}\nnodes: {a: {use: ./fit.yaml, in: {lr: params.rate}}}\noutputs: {loss: a.loss}"
    assert torch.equal(
        run_text(outer, tmp_path, {"rate": 0.05}).outputs["loss"], run_text(text(5), tmp_path).outputs["loss"]
    )


def cancel_at(step: int) -> dict[str, Any]:
    token = CancelToken()

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == step:
            token.cancel()

    return {"cancel": token, "observers": [observe]}


def test_a_broken_run_resumes_to_the_losses_of_the_unbroken_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = run_text(text(dropout=0.3, ema=", ema: 0.9"), tmp_path / "whole").outputs
    with pytest.raises(Cancelled):
        run_text(text(checkpoint=True, dropout=0.3, ema=", ema: 0.9"), tmp_path, **cancel_at(13))
    assert (tmp_path / "ckpt" / "state.safetensors").exists()
    seen: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            seen.append(event.done)

    resumed = run_text(text(checkpoint=True, dropout=0.3, ema=", ema: 0.9"), tmp_path, observers=[observe]).outputs
    assert seen[0] == 14
    assert torch.equal(whole["loss"], resumed["loss"])
    assert torch.equal(whole["net"].weight, resumed["net"].weight)


def test_muon_is_an_optimizer_of_a_workflow(tmp_path: Path) -> None:
    out = run_text(text(400, extra=", momentum: 0.9, betas: [0.9, 0.95]").replace("adamw", "muon"), tmp_path).outputs
    assert out["loss"][-1] < 1e-3 * out["loss"][0]


def test_a_run_broken_off_within_a_step_resumes_to_the_same_losses(tmp_path: Path) -> None:
    inner = """
      more:
        loop: {over: data, as: again}
        carry: {value: loss}
        body:
          other: {use: toy.loss, in: {model: carry.net, x: loop.again.x, y: loop.again.y}, with: {dropout: 0.5}}
        next: {value: other}
    train:"""
    nested = (
        text(8, checkpoint=True, dropout=0.5)
        .replace("\n    train:", inner)
        .replace("net, loss: loss", "net, loss: more.value")
    )
    nested = nested.replace("use: toy.batches}", "use: toy.batches, with: {count: 3}}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    token, seen = CancelToken(), []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.path.endswith("more"):
            seen.append(event)
            if len(seen) == 11:
                token.cancel()

    expected = run_text(nested, whole).outputs["loss"]
    with pytest.raises(Cancelled):
        run_text(nested, broken, cancel=token, observers=[observe])
    assert torch.equal(run_text(nested, broken).outputs["loss"], expected)


def test_the_checkpoint_is_a_literal_or_a_parameter_relative_to_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    linked = text(10, checkpoint=True).replace("path: ckpt", "path: params.saved")
    path = write(tmp_path / "flows", "params: {saved: ../kept}\n" + linked)
    seen: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            seen.append(event.done)

    watched = Attachments(observers=(observe,))
    graph = build(path, REGISTRY)
    run(graph, bind(graph, {}), attachments=watched)
    assert (tmp_path / "kept" / "state.safetensors").exists()
    run(graph, bind(graph, {"saved": "here"}, text=True), attachments=watched)
    assert (tmp_path / "elsewhere" / "here" / "state.safetensors").exists()
    assert len(seen) == 20
    run(graph, bind(graph, {"saved": tmp_path / "kept"}), attachments=watched)
    assert len(seen) == 20, "where the training is saved is not part of what it is: it is done already"


def test_a_checkpoint_may_be_left_out_by_its_parameter(tmp_path: Path) -> None:
    linked = text(10, checkpoint=True).replace("path: ckpt", "path: params.saved")
    optional = build(write(tmp_path, "params: {saved: {type: path, default: null}}\n" + linked), REGISTRY)
    run(optional, bind(optional, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["workflow.yaml"]


def test_a_checkpoints_parameter_exists_and_is_a_path(tmp_path: Path) -> None:
    linked = text(10, checkpoint=True).replace("path: ckpt", "path: params.saved")
    with pytest.raises(WorkflowError, match=r"gives int, port 'path' takes Path"):
        build(write(tmp_path, "params: {saved: 3}\n" + linked), REGISTRY)
    with pytest.raises(WorkflowError, match="did you mean 'saved'"):
        build(write(tmp_path, "params: {saved: a}\n" + linked.replace("params.saved", "params.save")), REGISTRY)


def test_a_used_workflow_saves_its_training_where_its_parameter_says(tmp_path: Path) -> None:
    block = "guidegraph: 1\nparams: {saved: {type: path}}\n" + text(10, checkpoint=True)
    (tmp_path / "block.yaml").write_text(block.replace("path: ckpt", "path: params.saved"))
    use = """
params: {top: from_param}
nodes:
  a: {use: ./block.yaml, with: {saved: from_literal}}
  b: {use: ./block.yaml, in: {saved: params.top}}
outputs: {a: a.loss, b: b.loss}
"""
    graph = build(write(tmp_path, use), REGISTRY)
    run(graph, bind(graph, {}), RunConfig(passes=frozenset()))
    assert (tmp_path / "from_literal" / "state.safetensors").exists()
    assert (tmp_path / "from_param" / "state.safetensors").exists()


def write(folder: Path, text: str) -> Path:
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    return path


def test_more_steps_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    short = run_text(text(20, checkpoint=True), tmp_path).outputs["loss"]
    longer = run_text(text(30, checkpoint=True), tmp_path).outputs["loss"]
    assert torch.equal(longer[:20], short)
    assert torch.equal(longer, run_text(text(30), tmp_path).outputs["loss"])


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run_text(text(10, checkpoint=True), tmp_path)
    with pytest.raises(NodeError, match="belongs to another training"):
        run_text(text(10, checkpoint=True, dropout=0.5), tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run_text(text(10, checkpoint=True), tmp_path)
    file = tmp_path / "ckpt" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(NodeError, match=r"state\.safetensors is damaged"):
        run_text(text(10, checkpoint=True), tmp_path)


def test_warm_up_and_decay_follow_the_step(tmp_path: Path) -> None:
    from guidegraph.graph.sources import Literal
    from guidegraph.graph.training.fit import OptimisedModel
    from guidegraph.graph.training.trained_model import learning_rate

    spec = OptimisedModel("m", Literal(None), "loss", "adamw", 1.0, None, 10, {"warmup": 10, "schedule": "cosine"})
    assert learning_rate(spec, 10, 120) == pytest.approx(0.1)
    assert learning_rate(spec, 19, 120) == pytest.approx(1.0)
    assert learning_rate(spec, 70, 120) == pytest.approx(0.5)
    assert learning_rate(spec, 120, 120) == pytest.approx(0.0)


CARRIES = """
nodes:
  start: {use: toy.line, with: {seed: 3}}
  zero: {use: toy.number}
  data: {use: DATA}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start, n: zero}
    body:
      loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}, with: {dropout: 0.2}}
      n: {use: toy.add, in: {a: carry.n}}
    next: {n: n}
    train: [{model: net, loss: loss, optimizer: adamw, lr: 0.05}]
    steps: STEPS
    checkpoint: {path: ckpt, every: 3}
    collect: {loss: loss, count: n}
outputs: {n: fit.n, count: fit.count, loss: fit.loss}
"""


@pytest.mark.parametrize("data", ["toy.batches", "toy.files", "toy.reseeding"])
def test_carries_and_what_is_collected_survive_a_resume_whatever_the_data_set(tmp_path: Path, data: str) -> None:
    """Of a pure data set, one that counts as impure, and one that seeds torch's generator for each batch."""
    text = CARRIES.replace("DATA", data)
    (tmp_path / "whole").mkdir()
    whole = run_text(text.replace("STEPS", "12"), tmp_path / "whole").outputs
    run_text(text.replace("STEPS", "5"), tmp_path)
    resumed = run_text(text.replace("STEPS", "12"), tmp_path).outputs
    assert resumed["n"] == 12.0
    assert resumed["count"] == [float(i) for i in range(1, 13)]
    assert torch.equal(whole["loss"], resumed["loss"])


def test_what_a_checkpoint_cannot_hold_is_refused_at_the_first_step(tmp_path: Path) -> None:
    text = CARRIES.replace("DATA", "toy.batches").replace("STEPS", "9").replace("count: n", "count: carry.net")
    with pytest.raises(NodeError, match="collect 'count' cannot be kept in a checkpoint"):
        run_text(text, tmp_path)


def test_the_moving_average_decays_as_asked(tmp_path: Path) -> None:
    weights = [run_text(text(n), tmp_path).outputs["net"].weight for n in (1, 2)]
    start = run_text(text(1), tmp_path).outputs["start"].weight
    average = run_text(text(2, ema=", ema: 0.9"), tmp_path).outputs["net"].weight
    expected = 0.9 * (0.9 * start + 0.1 * weights[0]) + 0.1 * weights[1]
    torch.testing.assert_close(average, expected)
    warm = run_text(text(2, ema=", ema: 0.9, ema_warmup: true"), tmp_path).outputs["net"].weight
    assert (warm - weights[1]).norm() < (average - weights[1]).norm()


def test_a_batch_that_cannot_be_had_names_the_loop(tmp_path: Path) -> None:
    broken = text(10).replace("use: toy.batches", "use: toy.batches, with: {broken: 3}")
    with pytest.raises(NodeError, match=r"nodes\.fit \(loop\)(.*)item 3 cannot be read: OSError: disk gone"):
        run_text(broken, tmp_path)


class Missing:
    """What a loaded model has in the place of a part that its folder lacks."""

    __guidegraph_absent__ = True

    def __repr__(self) -> str:
        return "the model 'm' has no part 'net'"


@pytest.mark.parametrize(
    ("value", "message"),
    [(Missing(), "the model 'm' has no part 'net'"), (3, "only a torch module can be trained; found int")],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(value: object, message: str) -> None:
    spec = OptimisedModel("net", Literal(None), "loss", "adamw", 0.1, None, 0, {})
    with pytest.raises(PortError, match=message):
        prepare_model(spec, value, torch.device("cpu"))


def test_weights_of_16_bits_beside_frozen_ones_are_trained_with_a_warning() -> None:
    spec = OptimisedModel("net", Literal(None), "loss", "adamw", 0.1, None, 0, {})
    with pytest.warns(UserWarning, match="the trained weights of 'net' are in bfloat16, which loses small updates"):
        prepare_model(spec, Partly(["second.weight"]).bfloat16(), torch.device("cpu"))


def test_a_number_of_steps_below_0_is_refused(tmp_path: Path) -> None:
    fit = text(0).replace("steps: 0", "steps: params.steps")
    (tmp_path / "fit.yaml").write_text(f"guidegraph: 1\nparams: {{steps: {{type: int}}}}{fit}")
    used = "nodes: {fit: {use: fit.yaml, with: {steps: -3}}}\noutputs: {net: fit.net}\n"
    with pytest.raises(WorkflowError, match="expected 0 or more iterations; found -3") as caught:
        run_text(used, tmp_path)
    assert caught.value.problems[0].path == "nodes.fit.with.steps"
    computed = fit.replace("params.steps", "count").replace(
        "nodes:", "nodes:\n  count: {use: toy.whole, with: {value: -3}}", 1
    )
    with pytest.raises(NodeError, match="'steps': expected 0 or more steps; found -3"):
        run_text(computed, tmp_path)

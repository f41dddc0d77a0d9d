"""Training of accelerated runs: torch.compile alone acts in it, and its checkpoint is that of any other run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._functorch import config

from guidegraph import Cancelled, load_workflow
from guidegraph.graph.acceleration.requirements import acceleration_problem
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.training.run_training import compile_models, restore_model
from tests.graph.engine_nodes import run_text
from tests.graph.training.test_fit import text


def stop_after(step: int) -> dict[str, Any]:
    token = CancelToken()

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == step:
            token.cancel()

    return {"cancel": token, "observers": [observe]}


@pytest.mark.parametrize(("first", "second"), [("onnx", ""), ("", "onnx"), ("onnx", "onnx"), ("compile", "")])
def test_a_training_goes_on_from_its_checkpoint_with_or_without_an_accelerator(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run_text(text(12, dropout=0.3), whole).outputs
    with pytest.raises(Cancelled):
        run_text(text(12, checkpoint=True, dropout=0.3), broken, accelerate=first, **stop_after(7))
    steps: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            steps.append(event.done)

    resumed = run_text(text(12, checkpoint=True, dropout=0.3), broken, accelerate=second, observers=[observe]).outputs
    assert steps[0] == 8
    assert torch.equal(resumed["loss"], expected["loss"])
    assert torch.equal(resumed["net"].weight, expected["net"].weight)


def test_the_networks_of_a_model_are_compiled_and_the_result_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def compile_module(module: nn.Module) -> None:
        compiled.append(module)
        module._compiled_call_impl = module._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    trained = run_text(text(2), tmp_path, accelerate="compile").outputs["net"]
    assert [type(module) for module in compiled] == [type(trained)]
    assert not any("_compiled_call_impl" in vars(module) for module in trained.modules())
    compiled.clear()
    nested = nn.ModuleDict({"list": nn.ModuleList([nn.Linear(1, 1), nn.PReLU()]), "one": nn.SiLU()})
    compile_models([nested])
    assert [type(module) for module in compiled] == [nn.Linear, nn.PReLU, nn.SiLU]


def test_a_container_of_torch_is_compiled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep_graph(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep_graph))
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.ones(4, 2)
    expected = network(x)
    model = nn.ModuleDict({"encoder": network})
    compile_models([model])
    assert torch.equal(network(x), expected)
    assert len(graphs) == 1
    restore_model(model)
    network(x[:3])
    assert len(graphs) == 1


@pytest.mark.parametrize("accelerate", ["compile", "onnx", ""])
def test_a_compiled_training_may_have_several_losses(
    accelerate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    overwrites: list[bool] = []
    default = config.donated_buffer
    run_text(
        text(2), tmp_path, accelerate=accelerate, observers=[lambda event: overwrites.append(config.donated_buffer)]
    )
    assert (False in overwrites) == (accelerate == "compile")
    assert config.donated_buffer == default


UNET = """
guidegraph: 1
nodes:
  schedule: {use: schedule.flow}
  data: {use: data.scenes_128, with: {count: 4, batch: 2}}
  nothing: {use: condition.vector, with: {number: 0.0}}
  unet:
    use: model.unet
    with: {in_channels: 3, channels: 8, multipliers: [1, 2], attention: [], patch: 8, vector_dim: 1, context_dim: null,
      kind: flow}
  fit:
    loop: {over: data.batches, as: batch}
    carry: {denoiser: unet}
    body:
      noise: {use: noise.gaussian, in: {like: loop.batch.image, index: loop.index}}
      t: {use: timesteps.logit_normal, in: {like: loop.batch.image, schedule: schedule, index: loop.index}}
      noisy: {use: schedule.add_noise, in: {x0: loop.batch.image, noise: noise, t: t, schedule: schedule}}
      predicted: {use: denoiser.predict, in: {denoiser: carry.denoiser, x: noisy, t: t, condition: nothing}}
      loss:
        use: loss.denoising
        in: {prediction: predicted, x0: loop.batch.image, noise: noise, t: t, schedule: schedule}
    train:
      - {model: denoiser, loss: loss, optimizer: adamw, lr: 1e-3}
    steps: 4
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""


@pytest.mark.slow
def test_a_compiled_training_has_the_same_losses(tmp_path: Path) -> None:
    if reason := acceleration_problem(RunConfig(accelerate="compile")):
        pytest.skip(reason)
    (tmp_path / "train.yaml").write_text(UNET)
    expected = load_workflow(tmp_path / "train.yaml", cache="off").run()["loss"]
    losses = load_workflow(tmp_path / "train.yaml", cache="off", accelerate="compile").run()["loss"]
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)

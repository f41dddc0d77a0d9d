"""lora.new, lora.merge and lora.save: training of the factors A and B, merging, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from guidegraph import load_workflow
from guidegraph.graph.training.trained_model import (
    get_trained_state,
    list_trained_parameters,
    live_copy,
    load_trained_state,
)
from guidegraph.nodes.checkpoints.lora_layers import read_lora
from guidegraph.nodes.models.networks.low_rank import LowRank, low_rank_layers
from guidegraph.nodes.models.store import describe_part
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.training.lora import apply_lora, merge_lora, new_lora, save_lora
from guidegraph.nodes.types import Condition
from tests.nodes.guidance.test_hooks import MODELS, random
from tools.reduce_lora import reduce_pair

CPU = torch.device("cpu")


@pytest.fixture(params=MODELS)
def denoiser(request: pytest.FixtureRequest) -> Any:
    return random(MODELS[request.param]())


@pytest.fixture
def own() -> Any:
    return random(MODELS["own"]())


def output(denoiser: Any) -> Tensor:
    torch.manual_seed(1)
    x, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    shape = getattr(denoiser.network, "shape", None) or denoiser.network.config
    condition = Condition(tokens=tokens if shape.context_dim else None)
    return predict(denoiser, x, torch.tensor([300.0]), condition).value


def with_trained_factors(denoiser: Any, seed: int = 2) -> Any:
    """A copy with random factors, as after a training."""
    live: Any = live_copy(denoiser, CPU)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in list_trained_parameters(live):
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return live.eval().requires_grad_(False)


@pytest.mark.parametrize("targets", ["attention", "all", ["*.*"]])
def test_a_new_lora_changes_nothing_until_it_is_trained(denoiser: Any, targets: Any) -> None:
    if targets == "attention" and not any(n.endswith(("query", "to_q")) for n, _ in denoiser.network.named_modules()):
        with pytest.raises(ValueError, match="no attention of linear layers"):
            new_lora(denoiser, targets=targets)
        return
    lora = new_lora(denoiser, rank=3, targets=targets, seed=1)
    torch.testing.assert_close(output(lora), output(denoiser), rtol=0, atol=0)
    assert not torch.allclose(output(with_trained_factors(lora)), output(denoiser), atol=1e-2)


def test_only_the_factors_are_trained_and_all_other_weights_are_shared(denoiser: Any) -> None:
    lora: Any = new_lora(denoiser, rank=2, targets="all")
    live: Any = live_copy(lora, CPU).train()
    parameters = [p.requires_grad_(True) for p in list_trained_parameters(live)]
    names = {name for name, p in live.named_parameters() if p.requires_grad}
    assert len(names) == len(parameters) == 2 * len(list(low_rank_layers(lora)))
    assert all(name.endswith((".lora_A", ".lora_B")) for name in names)
    originals = {id(p) for p in denoiser.parameters()}
    assert all(id(p) in originals for name, p in live.named_parameters() if name not in names)
    assert not any(id(p) in {id(q) for q in lora.parameters()} for p in parameters)
    output(live).square().sum().backward()
    assert all(p.grad is None for name, p in live.named_parameters() if name not in names)
    # B is zero, so that the first gradient moves B and not yet A.
    assert any(float(p.grad.abs().sum()) > 0 for name, p in live.named_parameters() if name.endswith("lora_B"))


def test_a_merged_model_computes_the_same_with_plain_layers(denoiser: Any) -> None:
    lora = with_trained_factors(new_lora(denoiser, rank=2, alpha=5.0, targets="all"))
    before = {name: p.clone() for name, p in lora.named_parameters()}
    merged: Any = merge_lora(lora)
    torch.testing.assert_close(output(merged), output(lora), rtol=1e-4, atol=1e-4)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in denoiser.named_parameters()]
    assert all(torch.equal(before[name], p) for name, p in lora.named_parameters())


@pytest.mark.parametrize("layout", ["kohya", "peft"])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_a_saved_lora_applies_to_the_original_denoiser(
    denoiser: Any, layout: Any, alpha: float | None, tmp_path: Path
) -> None:
    lora = with_trained_factors(new_lora(denoiser, rank=3, alpha=alpha, targets="all"))
    path = save_lora(lora, path=tmp_path / "made" / "lora.safetensors", layout=layout)
    applied = apply_lora(denoiser, path=Path(path)).denoiser
    torch.testing.assert_close(output(applied), output(lora), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output(applied), output(merge_lora(lora)), rtol=0, atol=1e-6)
    factors = read_lora(Path(path))
    assert {pair.scale for pair in factors.values()} == {1.0 if alpha is None else 2.0}
    assert len(factors) == len(list(low_rank_layers(lora)))


def test_the_files_have_the_names_of_kohya_and_of_peft(tmp_path: Path) -> None:
    lora = new_lora(random(MODELS["with_tokens"]()), targets=["*.attn2.to_k"], rank=2)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    for layout, key in (
        ("kohya", f"lora_unet_{layer.replace('.', '_')}.lora_down.weight"),
        ("peft", f"unet.{layer}.lora_A.weight"),
    ):
        path = tmp_path / f"{layout}.safetensors"
        save_lora(lora, path=path, layout=layout)  # type: ignore[arg-type]
        with safe_open(path, "pt") as file:
            assert file.get_tensor(key).shape == (2, 12)


def test_a_checkpoint_holds_only_the_factors_and_restores_them(own: Any) -> None:
    lora = with_trained_factors(new_lora(own, rank=2))
    state = get_trained_state(lora)
    assert set(state) == {n for n, _ in lora.named_parameters() if n.endswith((".lora_A", ".lora_B"))}
    other: Any = with_trained_factors(new_lora(own, rank=2), seed=3)
    versions = [p._version for p in own.parameters()]
    load_trained_state(other, state)
    torch.testing.assert_close(output(other), output(lora), rtol=0, atol=0)
    assert [p._version for p in own.parameters()] == versions  # shared weights are not written
    with pytest.raises(RuntimeError, match=r"missing: .*lora_A"):
        load_trained_state(other, dict(list(state.items())[1:]))


def test_initial_factors_depend_on_the_seed(own: Any) -> None:
    first, again, other = (dict(new_lora(own, seed=s).named_parameters()) for s in (1, 1, 2))  # type: ignore[attr-defined]
    names = [name for name in first if name.endswith("lora_A")]
    assert all(torch.equal(first[name], again[name]) for name in names)
    assert not any(torch.equal(first[name], other[name]) for name in names)


def test_reading_the_weight_of_a_layer_includes_its_update() -> None:
    torch.manual_seed(0)
    layer = LowRank(nn.Conv2d(4, 6, 3, stride=2, padding=1), rank=2, alpha=3.0)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(1, 4, 9, 9)
    expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_invalid_uses_raise(own: Any, tmp_path: Path) -> None:
    lora = new_lora(own)
    with pytest.raises(ValueError, match="no layer is called 'nothing'"):
        new_lora(own, targets=["nothing"])
    with pytest.raises(ValueError, match="has a LoRA to train already"):
        new_lora(lora)
    with pytest.raises(ValueError, match="has no LoRA that was trained"):
        save_lora(own, path=tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"does not end in \.safetensors"):
        save_lora(lora, path=tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=r"save the LoRA by lora\.save"):
        describe_part(lora)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lora\.new takes a denoiser with torch layers of its own.*found int"):
        new_lora(3)  # type: ignore[arg-type]


TRAINING = """
guidegraph: 1
params: {steps: 6}
nodes:
  plain:
    use: model.unet
    with: {channels: 8, multipliers: [1], attention: [0], heads: 2, context_dim: null, vector_dim: null}
  start:    {use: lora.new, in: {denoiser: plain}, with: {rank: 2, targets: all}}
  schedule: {use: schedule.cosine}
  x0:       {use: noise.gaussian, with: {seed: 1, shape: [4, 4, 4], batch: 2}}
  fit:
    loop: {over: params.steps, as: i}
    carry: {denoiser: start}
    body:
      noise:     {use: noise.gaussian, in: {index: loop.index}, with: {seed: 2, shape: [4, 4, 4], batch: 2}}
      t:         {use: timesteps.uniform, in: {like: x0, schedule: schedule, index: loop.index}}
      noisy:     {use: schedule.add_noise, in: {x0: x0, noise: noise, t: t, schedule: schedule}}
      predicted: {use: denoiser.predict, in: {denoiser: carry.denoiser, x: noisy, t: t}}
      loss:      {use: loss.denoising, in: {prediction: predicted, x0: x0, noise: noise, t: t, schedule: schedule}}
    train: [{model: denoiser, loss: loss, lr: 0.05, weight_decay: 0.1, ema: 0.5}]
    checkpoint: {path: checkpoint, every: 2}
    collect: {loss: loss}
outputs: {plain: plain, denoiser: fit.denoiser, loss: fit.loss}
"""


def test_a_training_loop_changes_only_the_factors_and_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    results = {}
    for folder, lengths in {"whole": (6,), "broken": (3, 6)}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.yaml").write_text(TRAINING)
        for steps in lengths:
            results[folder] = load_workflow(tmp_path / folder / "train.yaml").run(steps=steps)
    uninterrupted, resumed = results["whole"], results["broken"]
    plain = dict(uninterrupted["plain"].named_parameters())
    kept = {
        name.replace(".base.", "."): p
        for name, p in uninterrupted["denoiser"].named_parameters()
        if "lora_" not in name
    }
    assert kept.keys() == plain.keys()
    assert all(torch.equal(kept[name], plain[name]) for name in plain)  # weight decay has not touched them either
    factors = [p for name, p in uninterrupted["denoiser"].named_parameters() if name.endswith("lora_B")]
    assert any(float(p.abs().max()) > 0 for p in factors)
    assert torch.equal(uninterrupted["loss"], resumed["loss"])
    for a, b in zip(uninterrupted["denoiser"].parameters(), resumed["denoiser"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_reduced_lora_keeps_the_largest_part_of_each_change() -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((6, 5, 3, 3), (8, 6, 1, 1)))
    up[:, 2:] = 0  # the change has rank 2
    for rank in (2, 1):
        new_down, new_up, before, after = reduce_pair(down, up, 3.0, rank)
        assert (new_down.shape, new_up.shape) == ((rank, 5, 3, 3), (8, rank, 1, 1))
        change, kept = 0.5 * up.flatten(1) @ down.flatten(1), new_up.flatten(1) @ new_down.flatten(1)
        assert float((change - kept).square().sum()) == pytest.approx(before - after, rel=1e-4, abs=1e-4)
        assert torch.allclose(change, kept, atol=1e-5) == (rank == 2)

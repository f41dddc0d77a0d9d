"""DiT: its formulas, sizes, conditions, weights before training, saving, and the export of its function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from guidegraph.graph.node import get_spec
from guidegraph.nodes.guidance.guidance import classifier_free_guidance
from guidegraph.nodes.models.model_transformers import new_dit
from guidegraph.nodes.models.store import describe_part, load_part, save_parts
from guidegraph.nodes.models.transformers.dit import DiT, DiTBlock, DiTConfig
from guidegraph.nodes.models.transformers.layers import sincos_positions
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.training.lora import apply_lora, merge_lora, new_lora, save_lora
from guidegraph.nodes.types import Condition
from tests.nodes.models.transformers.networks import BATCH, SIDE, WIDTH, captioned, dit, labelled, mmdit, randomise


def test_positions_are_those_of_the_authors_software() -> None:
    """As get_2d_sincos_pos_embed of the authors: the columns come first, sines before cosines, in float64."""
    frequencies = 1.0 / 10_000 ** (np.arange(WIDTH // 4, dtype=np.float64) / (WIDTH / 4))
    columns, rows = np.meshgrid(np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32))
    angles = [np.outer(axis.reshape(-1), frequencies) for axis in (columns, rows)]
    expected = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    actual = sincos_positions(WIDTH, (4, 4), 4, torch.device("cpu"))
    assert np.abs(actual.numpy() - expected).max() <= 1e-6


def test_positions_of_another_size_are_scaled_to_the_grid_of_the_training() -> None:
    usual = sincos_positions(WIDTH, (4, 4), 4, torch.device("cpu")).reshape(4, 4, WIDTH)
    twice = sincos_positions(WIDTH, (8, 4), 4, torch.device("cpu")).reshape(8, 4, WIDTH)
    torch.testing.assert_close(twice[::2], usual)


def test_a_block_is_attention_and_feed_forward_between_modulations() -> None:
    config = DiTConfig(width=WIDTH, heads=2, hidden=32)
    block: DiTBlock = randomise(DiTBlock(config))
    h, embedding = torch.randn(2, 5, WIDTH), torch.randn(2, WIDTH)
    linear = block.adaLN_modulation[1]
    assert isinstance(linear, nn.Linear)
    parts = (F.silu(embedding) @ linear.weight.T + linear.bias).reshape(2, 6, 1, WIDTH).unbind(1)

    def norm(value: torch.Tensor) -> torch.Tensor:
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    qkv = block.attn.qkv(norm(h) * (1 + parts[1]) + parts[0]).reshape(2, 5, 3, 2, WIDTH // 2)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = torch.softmax(query @ key.transpose(-2, -1) / (WIDTH // 2) ** 0.5, -1)
    attended = h + parts[2] * block.attn.proj((weights @ value).transpose(1, 2).reshape(2, 5, WIDTH))
    hidden = F.gelu(block.mlp.fc1(norm(attended) * (1 + parts[4]) + parts[3]), approximate="tanh")
    expected = attended + parts[5] * block.mlp.fc2(hidden)
    torch.testing.assert_close(h + block(h, embedding), expected, rtol=1e-5, atol=1e-5)


def test_an_untrained_dit_predicts_zero_and_its_blocks_are_identities() -> None:
    denoiser = new_dit(width=WIDTH, depth=2, heads=2, grid=4)
    x, t, condition = labelled()
    assert not denoiser(x, t, condition).value.any()
    block = denoiser.network.blocks[0]  # type: ignore[attr-defined]
    assert not block(torch.randn(2, 5, WIDTH), torch.randn(2, WIDTH)).any()
    assert all(parameter.any() for name, parameter in block.named_parameters() if name.endswith("qkv.weight"))


@pytest.mark.parametrize("size", [(8, 8), (2, 14), (6, 4)])
def test_a_dit_takes_any_size_of_whole_patches(size: tuple[int, int]) -> None:
    denoiser = dit()
    x, t, condition = labelled(*size)
    assert denoiser(x, t, condition).value.shape == x.shape
    assert not torch.allclose(denoiser(x, t, condition).value, denoiser(x, t + 40, condition).value)
    other = Condition(vector=torch.zeros_like(condition.vector))  # type: ignore[arg-type]
    assert not torch.allclose(denoiser(x, t, condition).value, denoiser(x, t, other).value)


def test_moving_the_patches_does_not_move_the_output() -> None:
    """Positions matter: a transformer without them would move its output with its input."""
    denoiser = dit()
    x, t, condition = labelled()
    moved = denoiser(x.roll(2, dims=3), t, condition).value
    assert not torch.allclose(moved, denoiser(x, t, condition).value.roll(2, dims=3), atol=1e-2)


def test_a_patch_keeps_its_place_in_the_picture() -> None:
    """With blocks that add nothing, a patch of the output depends only on that patch of x."""
    denoiser = dit(depth=1)
    block = denoiser.network.blocks[0]
    for parameter in block.adaLN_modulation.parameters():
        parameter.zero_()
    x, t, condition = labelled()
    changed = x.clone()
    changed[:, :, 2:4, 6:8] += 1
    difference = (denoiser(changed, t, condition).value - denoiser(x, t, condition).value).abs() > 0
    assert difference[:, :, 2:4, 6:8].any()
    difference[:, :, 2:4, 6:8] = False
    assert not difference.any()


def test_other_sizes_and_conditions_are_refused() -> None:
    denoiser = dit()
    x, t, condition = labelled()
    with pytest.raises(ValueError, match="multiples of 2; found x of shape"):
        denoiser(x[:, :, :7], t, condition)
    with pytest.raises(ValueError, match=r"takes a vector of width 16, and got none: .* label\.embed without a label"):
        denoiser(x, t, Condition())
    with pytest.raises(ValueError, match="takes no tokens in its condition"):
        denoiser(x, t, Condition(vector=condition.vector, tokens=torch.zeros(2, 3, 8)))
    with pytest.raises(ValueError, match="takes no vector"):
        dit(conditional=False)(x, t, condition)
    with pytest.raises(ValueError, match="a width of 20 cannot be shared by 3 heads"):
        DiT(DiTConfig(width=20, heads=3))
    with pytest.raises(ValueError, match="a DiT's width is a multiple of 4"):
        DiTConfig(width=18)
    assert get_spec(predict).check is not None
    assert get_spec(predict).check(denoiser, {"x": (1, 4, 7, 8)}).keys() == {"x"}  # type: ignore[misc]


def test_a_spatial_condition_and_a_learned_variance() -> None:
    denoiser = dit(spatial_channels=3, out_channels=8, conditional=False)
    x, t, _ = labelled()
    maps = torch.randn(BATCH, 3, SIDE, SIDE)
    prediction = denoiser(x, t, Condition(spatial=maps))
    assert prediction.variance is not None
    assert prediction.value.shape == prediction.variance.shape == x.shape
    assert not torch.allclose(prediction.value, denoiser(x, t, Condition(spatial=0 * maps)).value)


def test_the_dtype_is_that_of_the_weights_and_the_result_that_of_x() -> None:
    x, t, condition = labelled()
    exact = dit()(x, t, condition).value
    narrow = dit().to(torch.bfloat16)(x, t, condition).value
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - exact).abs().max() <= 0.2 * exact.abs().max()


def test_a_saved_dit_loads_unchanged(tmp_path: Path) -> None:
    denoiser = dit(spatial_channels=1, kind="v")
    save_parts(tmp_path, {"denoiser": denoiser}, dtype=torch.float32)
    assert describe_part(denoiser)[0] == "dit"
    loaded = load_part(tmp_path, "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    x, t, condition = labelled()
    condition = Condition(vector=condition.vector, spatial=x[:, :1])
    assert torch.equal(loaded(x, t, condition).value, denoiser(x, t, condition).value)
    assert loaded(x, t, condition).kind == "v"


def test_a_lora_changes_the_attention_of_every_block() -> None:
    denoiser = dit()
    x, t, condition = labelled()
    lora = new_lora(denoiser, rank=2)
    assert torch.equal(lora(x, t, condition).value, denoiser(x, t, condition).value)
    names = lora.trainable_names()  # type: ignore[attr-defined]
    assert {name.split(".")[2] for name in names} == {"0", "1", "2"}
    assert all(".attn." in name for name in names)
    for name, parameter in lora.named_parameters():  # type: ignore[attr-defined]
        if name.endswith("lora_B"):
            parameter.data = torch.ones_like(parameter)
    merged = merge_lora(lora)
    torch.testing.assert_close(merged(x, t, condition).value, lora(x, t, condition).value, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged(x, t, condition).value, denoiser(x, t, condition).value, atol=1e-2)


@pytest.mark.parametrize(("build", "inputs"), [(dit, labelled), (mmdit, captioned)])
@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_lora_of_a_transformer_is_saved_and_applied(layout: Any, build: Any, inputs: Any, tmp_path: Path) -> None:
    denoiser = build()
    lora: Any = new_lora(denoiser, rank=2)
    for name, parameter in lora.named_parameters():
        if name.endswith("lora_B"):
            parameter.data = torch.ones_like(parameter)
    path = tmp_path / "lora.safetensors"
    save_lora(lora, path=path, layout=layout)
    applied = apply_lora(denoiser, path=path).denoiser
    expected = lora(*inputs()).value
    torch.testing.assert_close(applied(*inputs()).value, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(denoiser(*inputs()).value, expected, atol=1e-2)


def test_a_lora_under_the_names_of_diffusers_is_refused(tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": torch.ones(2, WIDTH), f"{layer}.lora_B.weight": torch.ones(WIDTH, 2)}
    save_file(factors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"transformer_blocks\.0\.attn1\.to_q"):
        apply_lora(dit(), path=tmp_path / "lora.safetensors")


@pytest.mark.slow
def test_an_exported_dit_computes_the_same_at_any_size() -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from guidegraph.graph.export.onnx.trace import Axis, trace_part

    denoiser, null = dit(), torch.zeros(1, WIDTH)

    def function(x: torch.Tensor, t: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cond = predict(denoiser, x, t, Condition(vector=vector))
        uncond = predict(denoiser, x, t, Condition(vector=null))
        return (classifier_free_guidance(cond, uncond, scale=2.0).value,)

    def inputs(batch: int, height: int = 8, width: int = 6) -> list[torch.Tensor]:
        x, _, condition = labelled(height, width, batch)
        assert condition.vector is not None
        return [x, torch.tensor([3.0]), condition.vector]

    side = {name: Axis(name, min=2, max=64, multiple_of=2) for name in ("height", "width")}
    batch = Axis("batch", max=8)
    axes = [{0: batch, 2: side["height"], 3: side["width"]}, {}, {0: batch}]
    part = trace_part(function, inputs(1), ["x", "t", "vector"], axes, ["guided"])  # type: ignore[arg-type]
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    for example in (inputs(1), inputs(3, 4, 10), inputs(2, 16, 2)):
        named = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
        (expected,) = function(*example)
        assert np.abs(session.run(["guided"], named)[0] - expected.numpy()).max() <= 1e-5 * expected.abs().max()

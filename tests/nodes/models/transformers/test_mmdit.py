"""MMDiT: joint attention, masks, positions, sizes, weights before training, saving, and the export of its function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.nodes.models.model_transformers import new_mmdit
from guidegraph.nodes.models.store import describe_part, load_part, save_parts
from guidegraph.nodes.models.transformers.layers import HeadNorm, crop_table, rotary_angles, rotate
from guidegraph.nodes.models.transformers.mmdit import MMDiTBlock, MMDiTConfig
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.training.lora import new_lora
from guidegraph.nodes.types import Condition
from tests.nodes.models.transformers.networks import (
    BATCH,
    SIDE,
    TOKEN_WIDTH,
    TOKENS,
    VECTOR_WIDTH,
    WIDTH,
    captioned,
    mmdit,
    randomise,
)

POSITIONS = ("table", "rotary")


def test_both_streams_attend_to_both_with_weights_of_their_own() -> None:
    """Query, key and value of one long sequence, of which the first tokens come from the picture."""
    config = MMDiTConfig(width=WIDTH, heads=2, hidden=32, depth=2, qk_norm=False)
    block: MMDiTBlock = randomise(MMDiTBlock(config, 0))
    x, context, embedding = torch.randn(2, 6, WIDTH), torch.randn(2, 3, WIDTH), torch.randn(2, WIDTH)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        seen.append((query, key, value))
        return torch.softmax(query @ key.transpose(-2, -1) / (WIDTH // 2) ** 0.5, -1) @ value

    change, text_change = block(x, context, embedding, joint=attend)
    plain, plain_text = block(x, context, embedding)
    torch.testing.assert_close(change, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text_change, plain_text, rtol=1e-4, atol=1e-5)
    streams = {"picture": (block.x_block, x, slice(0, 6)), "text": (block.context_block, context, slice(6, 9))}
    for stream, h, place in streams.values():
        shift, scale, *_ = stream.modulation(embedding)
        normed = torch.nn.functional.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale) + shift
        projected = stream.attn.qkv(normed).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        for actual, expected in zip(seen[0], projected, strict=True):
            torch.testing.assert_close(actual[:, :, place], expected)


def test_the_last_block_has_no_weights_for_the_text_after_its_attention() -> None:
    last = mmdit().network.joint_blocks[-1].context_block
    assert {name.split(".")[0] for name, _ in last.named_parameters()} == {"attn", "adaLN_modulation"}
    assert last.adaLN_modulation[1].out_features == 2 * WIDTH


def test_queries_and_keys_are_normalised_by_head() -> None:
    norm = HeadNorm(4)
    x = torch.randn(2, 3, 5, 4)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
    large = mmdit()
    attention = large.network.joint_blocks[0].x_block.attn
    query, _, _ = attention.project(torch.randn(1, 4, WIDTH))
    scaled, _, _ = attention.project(1e3 * torch.randn(1, 4, WIDTH))
    assert (scaled.abs().max() / query.abs().max()) < 10  # the norm keeps logits bounded


@pytest.mark.parametrize("positions", POSITIONS)
def test_tokens_that_the_mask_leaves_out_have_no_effect(positions: str) -> None:
    denoiser = mmdit(positions=positions)
    assert denoiser.honours_mask
    x, t, condition = captioned()
    assert condition.tokens is not None
    assert condition.mask is not None
    expected = denoiser(x, t, condition).value
    changed = torch.where(condition.mask[:, :, None], condition.tokens, torch.full_like(condition.tokens, 7.0))
    other = Condition(vector=condition.vector, tokens=changed, mask=condition.mask)
    torch.testing.assert_close(denoiser(x, t, other).value, expected)
    short = Condition(vector=condition.vector[-1:], tokens=condition.tokens[-1:, :-2])  # type: ignore[index]
    torch.testing.assert_close(denoiser(x[-1:], t[-1:], short).value, expected[-1:], rtol=1e-4, atol=1e-4)
    unmasked = Condition(vector=condition.vector, tokens=condition.tokens)
    assert not torch.allclose(denoiser(x, t, unmasked).value[-1:], expected[-1:], atol=1e-2)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("size", [(8, 8), (2, 14), (6, 4)])
def test_an_mmdit_takes_any_size_of_whole_patches(size: tuple[int, int], positions: str) -> None:
    denoiser = mmdit(positions=positions)
    x, t, condition = captioned(*size)
    expected = denoiser(x, t, condition).value
    assert expected.shape == x.shape
    for name in ("vector", "tokens"):
        changed = Condition(**{**vars(condition), name: 2 * getattr(condition, name)})
        assert not torch.allclose(denoiser(x, t, changed).value, expected, atol=1e-2), name
    assert not torch.allclose(denoiser(x, t + 40, condition).value, expected, atol=1e-2)
    moved = denoiser(x.roll(2, dims=3), t, condition).value
    assert not torch.allclose(moved, expected.roll(2, dims=3), atol=1e-2)


def test_a_picture_takes_the_middle_of_the_table() -> None:
    table = torch.arange(36.0).reshape(1, 36, 1)
    assert crop_table(table, 6, (2, 3)).flatten().tolist() == [13, 14, 15, 19, 20, 21]
    assert crop_table(table, 6, (6, 6)).flatten().tolist() == list(range(36))


@pytest.mark.parametrize("size", [(7, 3), (3, 8)])
def test_a_picture_beyond_the_table_is_out_of_its_range(size: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match=r"out of (range|bounds)"):
        crop_table(torch.zeros(1, 36, 1), 6, size)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    angles = rotary_angles(8, (6, 6), torch.device("cpu")).reshape(6, 6, 4)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(first: tuple[int, int], second: tuple[int, int]) -> float:
        turned = rotate(query, angles[first][None]), rotate(key, angles[second][None])
        return float((turned[0] * turned[1]).sum())

    assert product((1, 2), (3, 1)) == pytest.approx(product((2, 4), (4, 3)), abs=1e-5)
    assert product((1, 2), (3, 1)) != pytest.approx(product((1, 2), (1, 3)), abs=1e-3)
    assert float(rotate(query, angles[2, 3][None]).norm()) == pytest.approx(float(query.norm()), rel=1e-5)


def test_an_untrained_mmdit_predicts_zero_and_its_blocks_are_identities() -> None:
    denoiser: Any = new_mmdit(width=WIDTH, depth=2, heads=2, context_dim=TOKEN_WIDTH, vector_dim=VECTOR_WIDTH, side=8)
    x, t, condition = captioned()
    assert not denoiser(x, t, condition).value.any()
    change, text_change = denoiser.network.joint_blocks[0](
        torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH), torch.randn(2, WIDTH)
    )
    assert not change.any()
    assert not text_change.any()
    table = denoiser.network.pos_embed.reshape(8, 8, WIDTH)
    assert len(table.flatten(0, 1).unique(dim=0)) == 64  # each patch has a position of its own


def test_other_sizes_and_conditions_are_refused() -> None:
    denoiser = mmdit()
    x, t, condition = captioned()
    with pytest.raises(ValueError, match=r"positions for at most 16 × 16; found x of shape \(2, 4, 8, 18\)"):
        denoiser(*captioned(8, 18))
    assert mmdit(positions="rotary")(*captioned(8, 18)).value.shape == (2, 4, 8, 18)
    with pytest.raises(ValueError, match="takes tokens of width 12, and got none"):
        denoiser(x, t, Condition(vector=condition.vector))
    with pytest.raises(ValueError, match="takes a vector of width 6, and got none"):
        mmdit()(x, t, Condition(tokens=condition.tokens))
    assert mmdit(vector_dim=None)(x, t, condition).value.shape == x.shape
    with pytest.raises(ValueError, match="with rotary positions has a width that is a multiple of 8"):
        MMDiTConfig(width=20, heads=2, positions="rotary")
    with pytest.raises(ValueError, match=r"'dual' lists blocks of 0 … 1; found \(2,\)"):
        MMDiTConfig(depth=2, dual=(2,))


def test_a_saved_mmdit_loads_unchanged(tmp_path: Path) -> None:
    denoiser = mmdit(dual=(1,), out_channels=8)
    save_parts(tmp_path, {"denoiser": denoiser}, dtype=torch.float32)
    assert describe_part(denoiser)[0] == "mmdit"
    loaded: Any = load_part(tmp_path, "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.config == denoiser.config
    expected, actual = denoiser(*captioned()), loaded(*captioned())
    assert torch.equal(actual.value, expected.value)
    assert torch.equal(actual.variance, expected.variance)


def test_a_lora_has_the_attention_of_both_streams() -> None:
    lora: Any = new_lora(mmdit(dual=(0,)), rank=2)
    layers = {name.rsplit(".", 1)[0].removeprefix("network.joint_blocks.") for name in lora.trainable_names()}
    expected = {
        f"{i}.{stream}.attn.{layer}"
        for i in range(3)
        for stream in ("x_block", "context_block")
        for layer in ("qkv", "proj")
    }
    assert layers == (expected - {"2.context_block.attn.proj"}) | {"0.x_block.attn2.qkv", "0.x_block.attn2.proj"}


@pytest.mark.slow
@pytest.mark.parametrize("positions", POSITIONS)
def test_an_exported_mmdit_computes_the_same_at_any_size(positions: str) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from guidegraph.graph.export.onnx.trace import Axis, trace_part

    denoiser = mmdit(positions=positions, dual=(1,))

    def function(x: Tensor, t: Tensor, vector: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return (predict(denoiser, x, t, Condition(vector=vector, tokens=tokens, mask=mask)).value,)

    def inputs(batch: int, height: int = 8, width: int = 6, tokens: int = TOKENS) -> list[Tensor]:
        x, _, condition = captioned(height, width, batch)
        assert condition.vector is not None
        assert condition.tokens is not None
        assert condition.mask is not None
        return [x, torch.tensor([3.0]), condition.vector, condition.tokens[:, :tokens], condition.mask[:, :tokens]]

    batch, length = Axis("batch", max=8), Axis("tokens", max=16)
    side = {name: Axis(name, min=2, max=16, multiple_of=2) for name in ("height", "width")}
    text = {0: batch, 1: length}
    axes: Any = [{0: batch, 2: side["height"], 3: side["width"]}, {}, {0: batch}, text, text]
    part = trace_part(function, inputs(1), ["x", "t", "vector", "tokens", "mask"], axes, ["value"])
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    for example in (inputs(1), inputs(BATCH, SIDE, 10, 4), inputs(3, 16, 2, 3)):
        named = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
        (expected,) = function(*example)
        assert np.abs(session.run(["value"], named)[0] - expected.numpy()).max() <= 1e-5 * expected.abs().max()

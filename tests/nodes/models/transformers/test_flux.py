"""Flux: packing, positions, masks, sizes, guidance, saving, and the export of its function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.nodes.models.store import describe_part, load_part, save_parts
from guidegraph.nodes.models.transformers.layers import axis_angles, patch_places, rotate_pairs, turns_of
from guidegraph.nodes.sampling.denoiser import predict, set_distilled_guidance
from guidegraph.nodes.types import Condition
from guidegraph_families.flux.network import FluxConfig, pack, unpack
from tests.nodes.models.transformers.networks import BATCH, SIDE, TOKENS, captioned, flux

CPU = torch.device("cpu")


def test_a_token_holds_the_channels_of_its_patch_one_after_the_other() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = pack(x, 2)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[1, 4].reshape(3, 2, 2), x[1, :, 2:4, 2:4])  # the patch in row 1 and column 1
    assert torch.equal(unpack(tokens, (2, 3), 2), x)


def test_places_are_turned_on_three_axes() -> None:
    places = patch_places((2, 3), CPU)
    assert places.tolist() == [[0, row, column] for row in range(2) for column in range(3)]
    angles = axis_angles(places + torch.tensor([5.0, 0.0, 0.0]), (2, 2, 4), 100.0)
    expected = torch.tensor([5.0, 1.0, 2.0, 2.0 * 0.1])  # frequencies 1, 1, and 1 and 100^(−1/2)
    torch.testing.assert_close(angles[5], expected)


def test_pairs_are_turned_as_complex_numbers() -> None:
    x, angles = torch.randn(2, 3, 5, 8), torch.randn(5, 4)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous()) * torch.polar(torch.ones(5, 4), angles)
    parts = torch.stack([angles.cos(), angles.sin()], -1)  # as where calls are recorded
    assert torch.equal(torch.view_as_real(turns_of(angles)), parts)
    for turns in (turns_of(angles), parts):
        torch.testing.assert_close(rotate_pairs(x, turns), torch.view_as_real(turned).flatten(-2))
    assert rotate_pairs(x.bfloat16(), turns_of(angles)).dtype is torch.bfloat16


def test_tokens_that_the_mask_leaves_out_have_no_effect() -> None:
    denoiser = flux()
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


@pytest.mark.parametrize("size", [(8, 8), (2, 14), (6, 4)])
def test_a_flux_takes_any_size_of_whole_patches(size: tuple[int, int]) -> None:
    denoiser = flux()
    x, t, condition = captioned(*size)
    expected = denoiser(x, t, condition).value
    assert expected.shape == x.shape
    for name in ("vector", "tokens"):
        changed = Condition(**{**vars(condition), name: 2 * getattr(condition, name)})
        assert not torch.allclose(denoiser(x, t, changed).value, expected, atol=1e-2), name
    assert not torch.allclose(denoiser(x, t + 40, condition).value, expected, atol=1e-2)
    moved = denoiser(x.roll(2, dims=3), t, condition).value
    assert not torch.allclose(moved, expected.roll(2, dims=3), atol=1e-2)


def test_other_sizes_conditions_and_axes_are_refused() -> None:
    denoiser = flux()
    x, t, condition = captioned()
    with pytest.raises(ValueError, match=r"sides that are multiples of 2; found x of shape \(2, 4, 8, 7\)"):
        denoiser(x[..., :7], t, condition)
    with pytest.raises(ValueError, match="takes tokens of width 12, and got none"):
        denoiser(x, t, Condition(vector=condition.vector))
    with pytest.raises(ValueError, match="takes a vector of width 6, and got none"):
        denoiser(x, t, Condition(tokens=condition.tokens))
    for axes, heads in (((2, 2, 2), 2), ((1, 3, 4), 2), ((2, 2, 4), 3), ((-2, 2, 8), 2), ((0, 4, 4), 2)):
        with pytest.raises(ValueError, match="three even axes that make the width of a head"):
            FluxConfig(width=16, heads=heads, axes=axes)


def test_a_saved_flux_loads_unchanged(tmp_path: Path) -> None:
    denoiser = flux(spatial_channels=3, guidance=True)
    save_parts(tmp_path, {"denoiser": denoiser}, dtype=torch.float32)
    assert describe_part(denoiser)[0] == "flux"
    loaded: Any = load_part(tmp_path, "denoiser", device=CPU, dtype=torch.float32)
    assert loaded.config == denoiser.config
    x, t, condition = captioned()
    with_map = Condition(**{**vars(condition), "spatial": torch.randn(BATCH, 3, SIDE, SIDE)})
    expected, actual = (set_distilled_guidance(model, scale=3.0)(x, t, with_map).value for model in (denoiser, loaded))
    assert torch.equal(actual, expected)


def test_the_scale_of_a_told_denoiser_survives_rules_and_is_not_shared() -> None:
    denoiser = flux(guidance=True)
    x, t, condition = captioned()
    told: Any = set_distilled_guidance(denoiser, scale=torch.tensor([2.0, 6.0]))
    assert told.network is denoiser.network
    assert denoiser.guidance is None
    expected = told(x, t, condition).value
    ruled = told.with_rules({site: lambda h: h for site in told.sites() if site.kind == "feature"})
    assert torch.equal(ruled(x, t, condition).value, expected)
    _, values = told.captured(x, t, condition, told.sites())
    assert tuple(values) == told.sites()
    for row, scale in enumerate((2.0, 6.0)):
        alone = {name: value[row : row + 1] for name, value in vars(condition).items() if value is not None}
        actual = set_distilled_guidance(denoiser, scale=scale)(x[row : row + 1], t[row : row + 1], Condition(**alone))
        torch.testing.assert_close(actual.value, expected[row : row + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [False, True])
def test_an_exported_flux_computes_the_same_at_any_size(guidance: bool) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from guidegraph.graph.export.onnx.trace import Axis, trace_part

    denoiser = flux(guidance=guidance)

    def function(x: Tensor, t: Tensor, vector: Tensor, tokens: Tensor, mask: Tensor, scale: Tensor) -> tuple[Tensor]:
        told = set_distilled_guidance(denoiser, scale=scale)
        value = predict(told, x, t, Condition(vector=vector, tokens=tokens, mask=mask)).value
        return (value if guidance else value + 0 * scale,)

    def inputs(batch: int, height: int = 8, width: int = 6, tokens: int = TOKENS) -> list[Tensor]:
        x, _, condition = captioned(height, width, batch)
        assert condition.vector is not None
        assert condition.tokens is not None
        assert condition.mask is not None
        text = [condition.vector, condition.tokens[:, :tokens], condition.mask[:, :tokens]]
        return [x, torch.tensor([3.0]), *text, torch.tensor(2.0 + batch)]

    batch, length = Axis("batch", max=8), Axis("tokens", max=16)
    side = {name: Axis(name, min=2, max=16, multiple_of=2) for name in ("height", "width")}
    text = {0: batch, 1: length}
    axes: Any = [{0: batch, 2: side["height"], 3: side["width"]}, {}, {0: batch}, text, text, {}]
    part = trace_part(function, inputs(1), ["x", "t", "vector", "tokens", "mask", "scale"], axes, ["value"])
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    for example in (inputs(1), inputs(BATCH, SIDE, 10, 4), inputs(3, 16, 2, 3)):
        named = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
        (expected,) = function(*example)
        bound = 1e-4 if guidance else 1e-5  # sines of up to 5000, whose last bits differ between runtimes
        assert np.abs(session.run(["value"], named)[0] - expected.numpy()).max() <= bound * expected.abs().max()

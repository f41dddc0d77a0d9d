"""Z-Image's network: sites and rules, masks, sizes, saving, and the export of its function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph import AttentionCall, select_sites
from guidegraph.nodes.models.store import describe_part, load_part, save_parts
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.types import Condition
from guidegraph_families.z_image.network import MULTIPLE, ZImageConfig
from tests.nodes.models.transformers.networks import BATCH, DEPTH, SIDE, WIDTH, captioned, z_image

PATCHES = (SIDE // 2) ** 2


def written(height: int = SIDE, width: int = SIDE, batch: int = BATCH) -> tuple[Tensor, Tensor, Condition]:
    """x, t and a condition without a vector, which a Z-Image does not take."""
    x, t, condition = captioned(height, width, batch)
    return x, t, Condition(tokens=condition.tokens, mask=condition.mask)


def test_the_sites_are_those_of_the_picture_alone_and_of_both() -> None:
    names = [site.name for site in z_image().sites()]
    kinds = ("input", "joint", "skip", "feature")
    assert names == ["self.block.0", *(f"{kind}.block.{i}" for i in range(DEPTH) for kind in kinds)]


def test_rules_see_the_patches_first_and_then_all_other_tokens() -> None:
    denoiser = z_image()
    expected = denoiser(*written()).value
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def attend(call: AttentionCall) -> Tensor:
            counts[name] = call.query.shape[2]
            assert call.size == (SIDE // 2, SIDE // 2)
            return call.attend()

        return attend

    sites = select_sites(denoiser, ["self", "joint"])
    ruled = denoiser.with_rules({site: watch(site.name) for site in sites})
    assert torch.equal(ruled(*written()).value, expected)
    assert counts == {"self.block.0": MULTIPLE} | {f"joint.block.{i}": 2 * MULTIPLE for i in range(DEPTH)}
    _, values = denoiser.captured(*written(), denoiser.sites())
    assert values[select_sites(denoiser, "feature.block.1")[0]].shape == (BATCH, WIDTH, SIDE // 2, SIDE // 2)
    for site in denoiser.sites():
        rule: Any = {"skip": lambda h, s: (1.5 * h, s), "input": torch.abs, "feature": torch.abs}.get(
            site.kind, lambda call: call.value
        )
        assert not torch.allclose(denoiser.with_rules({site: rule})(*written()).value, expected, atol=1e-4), site


@pytest.mark.parametrize("index", range(DEPTH))
def test_a_block_that_is_left_out_is_one_that_the_network_does_not_have(index: int) -> None:
    denoiser = z_image()
    sites = select_sites(denoiser, f"skip.block.{index}")
    ruled = denoiser.with_rules(dict.fromkeys(sites, lambda h, skipped: (0 * h, skipped)))
    actual = ruled(*written()).value
    del denoiser.network.layers[index]
    assert torch.equal(actual, denoiser(*written()).value)


def test_tokens_that_the_mask_leaves_out_have_no_effect() -> None:
    denoiser = z_image()
    assert denoiser.honours_mask
    x, t, condition = written()
    assert condition.tokens is not None
    assert condition.mask is not None
    expected = denoiser(x, t, condition).value
    changed = torch.where(condition.mask[:, :, None], condition.tokens, torch.full_like(condition.tokens, 7.0))
    torch.testing.assert_close(denoiser(x, t, Condition(tokens=changed, mask=condition.mask)).value, expected)
    longer = torch.cat([condition.tokens, torch.randn(BATCH, 40, condition.tokens.shape[2])], dim=1)
    mask = torch.cat([condition.mask, condition.mask.new_zeros(BATCH, 40)], dim=1)
    actual = denoiser(x, t, Condition(tokens=longer, mask=mask)).value
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    unmasked = denoiser(x, t, Condition(tokens=condition.tokens)).value
    assert not torch.allclose(unmasked[-1:], expected[-1:], atol=1e-2)


@pytest.mark.parametrize("size", [(8, 8), (2, 14), (6, 4), (16, 16)])
def test_a_z_image_takes_any_size_of_whole_patches(size: tuple[int, int]) -> None:
    denoiser = z_image()
    x, t, condition = written(*size)
    expected = denoiser(x, t, condition).value
    assert expected.shape == x.shape
    for i in range(BATCH):
        row = Condition(tokens=condition.tokens[i : i + 1], mask=condition.mask[i : i + 1])  # type: ignore[index]
        torch.testing.assert_close(
            denoiser(x[i : i + 1], t[i : i + 1], row).value, expected[i : i + 1], rtol=1e-4, atol=1e-4
        )
    assert not torch.allclose(denoiser(x, t + 40, condition).value, expected, atol=1e-3)
    moved = denoiser(x.roll(2, dims=3), t, condition).value
    assert not torch.allclose(moved, expected.roll(2, dims=3), atol=1e-2)


def test_other_conditions_and_axes_are_refused() -> None:
    denoiser = z_image()
    x, t, condition = written()
    with pytest.raises(ValueError, match="takes tokens of width 12, and got none"):
        denoiser(x, t, Condition())
    with pytest.raises(ValueError, match="takes no spatial condition, and got one of 1 channels"):
        denoiser(x, t, Condition(tokens=condition.tokens, spatial=x[:, :1]))
    with pytest.raises(ValueError, match="three even axes that make the width of a head"):
        ZImageConfig(width=16, heads=2, axes=(2, 2, 2))


def test_a_saved_z_image_loads_unchanged(tmp_path: Path) -> None:
    denoiser = z_image()
    save_parts(tmp_path, {"denoiser": denoiser}, dtype=torch.float32)
    assert describe_part(denoiser)[0] == "z_image"
    loaded: Any = load_part(tmp_path, "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.config == denoiser.config
    assert torch.equal(loaded(*written()).value, denoiser(*written()).value)


@pytest.mark.slow
def test_an_exported_z_image_computes_the_same_at_any_size() -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from guidegraph.graph.export.onnx.trace import Axis, trace_part

    denoiser = z_image()

    def function(x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor]:
        return (predict(denoiser, x, t, Condition(tokens=tokens, mask=mask)).value,)

    def inputs(batch: int, height: int = 8, width: int = 6) -> list[Tensor]:
        x, _, condition = written(height, width, batch)
        assert condition.tokens is not None
        assert condition.mask is not None
        return [x, torch.tensor([300.0]), condition.tokens, condition.mask]

    batch = Axis("batch", max=8)
    side = {name: Axis(name, min=2, max=24, multiple_of=2) for name in ("height", "width")}
    axes: Any = [{0: batch, 2: side["height"], 3: side["width"]}, {}, {0: batch}, {0: batch}]
    part = trace_part(function, inputs(1), ["x", "t", "tokens", "mask"], axes, ["value"])
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    for example in (inputs(1), inputs(BATCH, SIDE, 10), inputs(3, 16, 16), inputs(2, 24, 6)):
        named = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
        (expected,) = function(*example)
        assert np.abs(session.run(["value"], named)[0] - expected.numpy()).max() <= 1e-4 * expected.abs().max()

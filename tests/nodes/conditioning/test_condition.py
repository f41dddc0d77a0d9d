"""Conditions: spatial, pooled, null, dropped and merged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guidegraph import WorkflowError, load_workflow
from guidegraph.nodes.conditioning.condition import (
    drop_condition,
    merge_conditions,
    null_condition,
    pool_condition,
    spatial_condition,
)
from guidegraph.nodes.models.model_nodes import new_unet
from guidegraph.nodes.models.model_transformers import new_dit
from guidegraph.nodes.types import Condition


@pytest.fixture(autouse=True)
def _set_seed() -> None:
    torch.manual_seed(0)


def full(batch: int = 4) -> Condition:
    mask = torch.tensor([[True, True, False]]).expand(batch, -1)
    return Condition(torch.randn(batch, 5), torch.randn(batch, 3, 6), mask, torch.randn(batch, 2, 4, 4))


def test_area_gives_the_fraction_of_each_class_in_every_cell() -> None:
    semantic = torch.zeros(1, 2, 8, 8)
    semantic[:, 0, :, :3] = 1
    semantic[:, 1, :, 3:] = 1
    spatial = spatial_condition([semantic], size=2).spatial
    assert spatial is not None
    assert spatial.shape == (1, 2, 2, 2)
    assert spatial[0, :, 0, 0].tolist() == [0.75, 0.25]
    torch.testing.assert_close(spatial.sum(1), torch.ones(1, 2, 2))


def test_maps_are_concatenated_in_order_at_the_size_of_the_first() -> None:
    latent, mask = torch.randn(3, 4, 4, 4), torch.ones(1, 1, 16, 16)
    spatial = spatial_condition([latent, mask]).spatial
    assert spatial is not None
    assert spatial.shape == (3, 5, 4, 4)
    assert torch.equal(spatial[:, :4], latent)
    assert torch.equal(spatial[:, 4], torch.ones(3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("side", [4, 8])
def test_an_integer_mask_does_not_change_the_dtype_of_a_latent(dtype: torch.dtype, side: int) -> None:
    latent, mask = torch.randn(1, 2, 4, 4), torch.ones(1, 1, side, side, dtype=dtype)
    spatial = spatial_condition([mask, latent], size=4).spatial
    assert spatial is not None
    assert torch.equal(spatial, torch.cat([torch.ones(1, 1, 4, 4), latent], 1))
    alone = spatial_condition([mask], size=4).spatial
    assert alone is not None
    assert torch.equal(alone, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("mode", ["area", "bilinear", "nearest"])
def test_a_constant_part_stays_constant_at_another_size(mode: str) -> None:
    for size in (2, 16, (3, 5)):
        spatial = spatial_condition([torch.full((1, 1, 8, 8), 0.25)], size=size, mode=mode).spatial
        assert spatial is not None
        torch.testing.assert_close(spatial, torch.full_like(spatial, 0.25))


def test_mismatched_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected parts of 4 axes .* found one of shape \(3, 4\)"):
        spatial_condition([torch.zeros(3, 4)])
    with pytest.raises(ValueError, match=r"of one batch, or of 1 sample; found \[2, 3\]"):
        spatial_condition([torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4)])


def test_the_null_condition_is_zero_and_keeps_shapes_and_mask() -> None:
    condition = full()
    null = null_condition(condition)
    for name in ("vector", "tokens", "spatial"):
        assert getattr(null, name).abs().max() == 0
        assert getattr(null, name).shape == getattr(condition, name).shape
    assert null.mask is condition.mask
    assert null_condition(Condition(vector=torch.ones(1, 2))).spatial is None


def test_a_pooled_condition_keeps_vector_and_map_and_suits_a_dit() -> None:
    condition = full()
    pooled = pool_condition(condition)
    assert pooled.vector is condition.vector
    assert pooled.spatial is condition.spatial
    assert pooled.tokens is None
    assert pooled.mask is None
    denoiser = new_dit(width=8, depth=1, heads=2, grid=2)
    text = Condition(torch.randn(2, 8), torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))
    x, t = torch.randn(2, 4, 4, 4), torch.zeros(2)
    with pytest.raises(ValueError, match="takes no tokens in its condition"):
        denoiser(x, t, text)
    assert denoiser(x, t, pool_condition(text)).value.shape == x.shape


def test_a_condition_without_a_vector_cannot_be_pooled() -> None:
    with pytest.raises(ValueError, match="expected a condition with a vector; this one has none"):
        pool_condition(Condition(tokens=torch.zeros(1, 2, 3)))


def test_dropped_samples_are_null_in_every_field_and_the_others_unchanged() -> None:
    condition = full(batch=64)
    dropped = drop_condition(condition, 3, p=0.5, seed=1)
    gone = dropped.vector.abs().sum(1) == 0
    assert 0.3 < gone.float().mean() < 0.7
    null = null_condition(condition)
    for name in ("vector", "tokens", "spatial"):
        value = getattr(dropped, name)
        assert torch.equal(value[gone], getattr(null, name)[gone])
        assert torch.equal(value[~gone], getattr(condition, name)[~gone])
    assert torch.equal(dropped.mask, condition.mask)


def test_dropped_samples_depend_on_seed_and_index_alone() -> None:
    def find_dropped(seed: int, index: int) -> list[bool]:
        vector = drop_condition(Condition(vector=torch.randn(64, 2)), index, p=0.5, seed=seed).vector
        assert vector is not None
        return (vector == 0).all(1).tolist()

    assert find_dropped(1, 2) == find_dropped(1, 2)
    assert find_dropped(1, 2) != find_dropped(1, 3)
    assert find_dropped(1, 2) != find_dropped(2, 2)


def test_p_0_drops_no_sample_and_p_1_drops_all() -> None:
    condition = Condition(spatial=torch.ones(8, 1, 2, 2))
    assert torch.equal(drop_condition(condition, p=0.0).spatial, condition.spatial)
    assert drop_condition(condition, p=1.0).spatial.abs().max() == 0


def test_gradients_reach_only_samples_that_are_not_dropped() -> None:
    vector = torch.randn(32, 2, requires_grad=True)
    dropped = drop_condition(Condition(vector=vector), p=0.5).vector
    assert dropped is not None
    (gradient,) = torch.autograd.grad(dropped.sum(), vector)
    assert 0 < int(gradient.bool().sum()) < gradient.numel()
    assert torch.equal(gradient.bool(), dropped.bool())


def test_fields_of_unequal_batches_are_not_dropped() -> None:
    with pytest.raises(ValueError, match=r"every field with the batch's leading axis; found \[1, 4\]"):
        drop_condition(Condition(vector=torch.ones(1, 2), spatial=torch.ones(4, 1, 2, 2)))


def test_a_merged_condition_has_the_fields_of_all() -> None:
    text = Condition(torch.randn(1, 5), torch.randn(1, 3, 6), torch.tensor([[True, False, False]]))
    semantic = Condition(spatial=torch.randn(2, 4, 4, 4))
    picture = Condition(tokens=torch.randn(2, 2, 6), spatial=torch.randn(2, 3, 4, 4))
    merged = merge_conditions([text, semantic, picture])
    assert torch.equal(merged.vector, text.vector.expand(2, -1))
    assert merged.tokens.shape == (2, 5, 6)
    assert merged.mask.tolist() == [[True, False, False, True, True]] * 2
    assert torch.equal(merged.spatial, torch.cat([semantic.spatial, picture.spatial], 1))


def test_two_vectors_and_unequal_batches_do_not_merge() -> None:
    with_vector = Condition(vector=torch.ones(1, 2))
    with pytest.raises(ValueError, match="2 conditions have a vector"):
        merge_conditions([with_vector, with_vector])
    with pytest.raises(ValueError, match=r"of one batch, or of 1 sample; found \[2, 3\]"):
        merge_conditions([Condition(spatial=torch.ones(2, 1, 2, 2)), Condition(vector=torch.ones(3, 2))])


def test_errors_name_the_spatial_condition_and_size_that_a_denoiser_takes() -> None:
    small = {"channels": 8, "multipliers": (1, 1), "attention": (), "context_dim": None, "vector_dim": None}
    denoiser, plain = new_unet(**small, spatial_channels=2), new_unet(**small)
    x, t, spatial = torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 2, 8, 8)
    assert denoiser(x, t, Condition(spatial=spatial)).value.shape == x.shape
    with pytest.raises(ValueError, match="takes a spatial condition of 2 channels, and got none"):
        denoiser(x, t, Condition())
    with pytest.raises(ValueError, match="takes a spatial condition of 2 channels, and got one of 3"):
        denoiser(x, t, Condition(spatial=torch.zeros(1, 3, 8, 8)))
    with pytest.raises(ValueError, match="takes no spatial condition, and got one of 2 channels"):
        plain(x, t, Condition(spatial=spatial))
    with pytest.raises(ValueError, match=r"must have the size of x, \(8, 8\); found \(4, 4\)"):
        denoiser(x, t, Condition(spatial=torch.zeros(1, 2, 4, 4)))
    with pytest.raises(ValueError, match="sides that are multiples of 2"):
        plain(torch.zeros(1, 4, 7, 8), t, Condition())
    with pytest.raises(ValueError, match=r"takes x \(B, C, H, W\) of 4 channels; found x of shape \(1, 4, 8\)"):
        plain(torch.zeros(1, 4, 8), t, Condition())


NUMBERS = """
guidegraph: 1
params: {numbers: {default: [1.0, 2.0], type: list}}
nodes:
  condition: {use: condition.vector, in: {number: params.numbers}}
outputs: {condition: condition}
"""


def test_a_vector_of_no_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text(NUMBERS)
    assert load_workflow(path).run()["condition"].vector.tolist() == [[1], [2]]
    with pytest.raises(WorkflowError, match=r"at least 1 item .* found list \[\]"):
        load_workflow(path).run(numbers=[])
    path.write_text(NUMBERS.replace("in: {number: params.numbers}", "with: {number: []}"))
    with pytest.raises(WorkflowError, match=r"at least 1 item .* found list \[\]"):
        load_workflow(path)

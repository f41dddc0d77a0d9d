"""Masks and masked pictures: pixels outside a mask do not change at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph.nodes.conditioning.mask import (
    apply_mask,
    box_mask,
    find_bounds,
    load_mask,
    mask_boxes,
    random_mask,
    scale_mask,
)
from guidegraph.nodes.images.image import composite


def test_a_box_is_one_inside_and_zero_outside() -> None:
    mask = box_mask(size=(6, 8), top=1, left=2, height=3, width=4)
    assert mask.shape == (1, 1, 6, 8)
    assert mask.sum() == 12
    assert mask[0, 0, 1:4, 2:6].min() == 1
    with pytest.raises(ValueError, match="a box of 3 × 4 at 5, 2 reaches beyond 6 × 8 pixels"):
        box_mask(size=(6, 8), top=5, left=2, height=3, width=4)


def test_a_loaded_mask_is_one_where_the_picture_is_bright(tmp_path: Path) -> None:
    levels = np.array([[0, 127], [128, 255]], dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "m.png")
    assert load_mask(path=tmp_path / "m.png")[0, 0].tolist() == [[0, 0], [1, 1]]
    assert load_mask(path=tmp_path / "m.png", threshold=0.9)[0, 0].tolist() == [[0, 0], [0, 1]]
    assert load_mask(path=tmp_path / "m.png", size=8).shape == (1, 1, 8, 8)
    Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)).save(tmp_path / "clear.png")
    assert load_mask(path=tmp_path / "clear.png")[0, 0].tolist() == [[1, 0]]


@pytest.mark.parametrize("kind", ["mixed", "boxes", "strokes"])
def test_random_masks_cover_a_fraction_and_depend_on_seed_and_index_alone(kind: Any) -> None:
    like = torch.zeros(64, 3, 64, 64)
    masks = random_mask(like, 5, kind=kind, seed=1)
    assert masks.shape == (64, 1, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    hidden = masks.mean((1, 2, 3))
    assert hidden.min() > 0.01
    assert hidden.max() < 0.9
    assert 0.1 < hidden.mean() < 0.4
    assert torch.equal(masks, random_mask(like, 5, kind=kind, seed=1))
    assert torch.equal(masks[:2], random_mask(like[:2], 5, kind=kind, seed=1))
    assert not torch.equal(masks, random_mask(like, 6, kind=kind, seed=1))
    assert not torch.equal(masks, random_mask(like, 5, kind=kind, seed=2))
    assert not torch.equal(masks[0], masks[1])


def test_a_masked_picture_is_mid_grey_under_the_mask() -> None:
    image, mask = torch.rand(2, 3, 8, 8) + 0.1, box_mask(size=8, top=0, left=0, height=4, width=8)
    masked = apply_mask(image, mask)
    assert masked[:, :, :4].abs().max() == 0
    assert torch.equal(masked[:, :, 4:], image[:, :, 4:])


def test_latent_diffusion_has_black_under_the_mask_and_a_mask_from_minus_one_to_one() -> None:
    image, mask = torch.rand(2, 3, 8, 8), box_mask(size=8, top=0, left=0, height=4, width=8)
    masked = apply_mask(image, mask, fill=-1.0)
    assert torch.equal(masked[:, :, :4], -torch.ones(2, 3, 4, 8))
    assert torch.equal(masked[:, :, 4:], image[:, :, 4:])
    assert scale_mask(mask)[0, 0, :, 0].tolist() == [1, 1, 1, 1, -1, -1, -1, -1]


def test_a_mask_of_any_dtype_is_the_same_mask_and_values_beyond_1_are_refused() -> None:
    inside, outside, mask = (
        torch.rand(2, 3, 8, 8),
        torch.rand(1, 3, 8, 8),
        box_mask(size=8, top=2, left=2, height=4, width=4),
    )
    for kind in (torch.bool, torch.uint8, torch.int64, torch.float64):
        assert torch.equal(apply_mask(inside, mask.to(kind)), apply_mask(inside, mask))
        assert torch.equal(composite(inside, outside, mask.to(kind)), composite(inside, outside, mask))
    for wrong in (255 * mask, -mask, mask * torch.nan):
        with pytest.raises(ValueError, match="a mask has values from 0 to 1; found"):
            apply_mask(inside, wrong)
        with pytest.raises(ValueError, match="a mask has values from 0 to 1; found"):
            composite(inside, outside, wrong)


def test_a_composite_is_the_outer_picture_exactly_where_the_mask_is_zero() -> None:
    inside, outside = torch.rand(3, 3, 8, 8), torch.rand(1, 3, 8, 8)
    mask = box_mask(size=8, top=2, left=2, height=4, width=4)
    made = composite(inside, outside, mask)
    assert torch.equal(made * (1 - mask), outside.expand(3, -1, -1, -1) * (1 - mask))
    torch.testing.assert_close(made * mask, inside * mask)
    torch.testing.assert_close(composite(inside, outside, 0.5 * mask + 0.5), made * 0.5 + inside * 0.5)
    with pytest.raises(ValueError, match=r"must be of one size, .* \(1, 1, 4, 4\)"):
        composite(inside, outside, torch.ones(1, 1, 4, 4))


def test_boxes_cover_the_pixels_whose_centres_they_have() -> None:
    like = torch.zeros(2, 3, 4, 8)
    boxes = torch.tensor(
        [[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.125, 0.25]], [[-1.0, -1.0, -1.0, -1.0], [0.5, 0.5, 0.5, 0.9]]]
    )
    masks = mask_boxes(boxes, like)
    expected = torch.zeros(2, 1, 4, 8)
    expected[0, 0, 2:, 2:6] = 1
    expected[0, 0, 0, 0] = 1
    assert torch.equal(masks, expected)
    assert masks[1].sum() == 0  # no object, and one without a width


def test_a_margin_widens_boxes_on_every_side() -> None:
    like = torch.zeros(1, 3, 8, 8)
    box = torch.tensor([[[0.25, 0.5, 0.5, 0.625]]])
    assert torch.equal(mask_boxes(box, like, margin=1 / 8), box_mask(size=8, top=3, left=1, height=3, width=4))
    with pytest.raises(
        ValueError, match=r"expected boxes \(B, N, 4\), with B = 1 as there are pictures; found \(2, 1, 4\)"
    ):
        mask_boxes(box.expand(2, 1, 4), like)


def test_bounds_are_the_smallest_box_around_a_mask() -> None:
    masks = torch.zeros(3, 1, 4, 8)
    masks[0, 0, 1, 2], masks[0, 0, 2, 5] = 1, 0.9
    masks[1, 0, 3, 7], masks[1, 0, 0, 0] = 1, 0.4
    expected = torch.tensor([[[0.25, 0.25, 0.75, 0.75]], [[0.875, 0.75, 1.0, 1.0]], [[-1.0] * 4]])
    assert torch.equal(find_bounds(masks), expected)


def test_a_mask_of_its_bounds_covers_the_mask() -> None:
    like = torch.zeros(4, 3, 32, 24)
    masks = random_mask(like, kind="strokes", seed=3)
    assert ((mask_boxes(find_bounds(masks), like) - masks) >= 0).all()

"""Semantic maps: round trips through pictures, and errors for pixels without a class."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph.nodes.conditioning.semantic import load_map, map_from_logits, picture_of_map
from guidegraph.nodes.output_formats import to_pixels
from guidegraph_runtime.pictures.png import write_png
from guidegraph_runtime.pictures.semantic_maps import CLASSES, COLOURS, TOLERANCE
from guidegraph_scenes.datasets import scene


def test_every_class_has_a_distinct_colour() -> None:
    assert len(COLOURS) == len(CLASSES)
    distances = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(COLOURS, 2)]
    assert min(distances) > 2 * TOLERANCE


def test_a_map_survives_a_round_trip_through_its_picture(tmp_path: Path) -> None:
    semantic = scene(seed=3, batch=2).semantic[1:]
    write_png(tmp_path / "map.png", to_pixels(picture_of_map(semantic)[0]))
    assert torch.equal(load_map(path=tmp_path / "map.png"), semantic)


def test_a_grey_picture_holds_indices_and_scales_by_the_nearest_pixel(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 22], [7, 7]], dtype=np.uint8)).save(tmp_path / "map.png")
    semantic = load_map(path=tmp_path / "map.png", size=4)
    assert semantic.shape == (1, len(CLASSES), 4, 4)
    assert semantic.argmax(1)[0].tolist() == [[0, 0, 22, 22]] * 2 + [[7] * 4] * 2
    assert torch.equal(semantic.sum(1), torch.ones(1, 4, 4))


def test_other_classes_are_indices_without_colours(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 181], [23, 7]], dtype=np.uint8)).save(tmp_path / "map.png")
    semantic = load_map(path=tmp_path / "map.png", classes=182)
    assert semantic.shape == (1, 182, 2, 2)
    assert semantic.argmax(1)[0].tolist() == [[0, 181], [23, 7]]
    with pytest.raises(ValueError, match="the value at row 0, column 1 is 181; classes are 0 to 180"):
        load_map(path=tmp_path / "map.png", classes=181)
    Image.fromarray(np.zeros((1, 1, 3), dtype=np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png: colours stand for the classes of scenes alone: for 182 classes"):
        load_map(path=tmp_path / "rgb.png", classes=182)


def test_an_error_names_pixels_without_a_class(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 23]], dtype=np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"grey.png: the value at row 0, column 1 is 23; classes are 0 to 22"):
        load_map(path=tmp_path / "grey.png")
    Image.fromarray(np.array([[[255, 128, 5], [255, 140, 60]]], dtype=np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"\(255, 140, 60\) at row 0, column 1 stands for no class; .*, tiger"):
        load_map(path=tmp_path / "rgb.png")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_map(path=tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is not a picture that Pillow can read"):
        load_map(path=tmp_path / "text.png")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_indices_may_have_more_than_8_bits(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.array([[0, 22], [7, 7]], dtype=dtype)).save(tmp_path / "map.tiff")
    assert load_map(path=tmp_path / "map.tiff").argmax(1)[0].tolist() == [[0, 22], [7, 7]]
    for wrong in (40_000, *((-1,) if dtype is np.int32 else ()), *((0.5,) if dtype is np.float32 else ())):
        Image.fromarray(np.array([[0, wrong]], dtype=dtype)).save(tmp_path / "map.tiff")
        with pytest.raises(ValueError, match=rf"at row 0, column 1 is {wrong}(\.0)?; classes are 0 to 22"):
            load_map(path=tmp_path / "map.tiff")


def test_logits_become_the_most_likely_class() -> None:
    logits = torch.randn(2, 5, 3, 3)
    semantic = map_from_logits(logits)
    assert torch.equal(semantic.argmax(1), logits.argmax(1))
    assert torch.equal(semantic.sum(1), torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match=r"expected logits \(B, K, H, W\); found shape \(2, 5\)"):
        map_from_logits(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="the logits have values that are not finite"):
        map_from_logits(torch.full((1, 5, 3, 3), torch.nan))
    with pytest.raises(ValueError, match="the 23 classes of scenes; the map has 5"):
        picture_of_map(semantic)

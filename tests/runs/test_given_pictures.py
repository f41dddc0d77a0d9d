"""A parameter that names a picture takes its pixels from Python, with the results of a file."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph import Workflow, WorkflowError, load_workflow

TEXT = """guidegraph: 1
params: {image: {type: Path}, mask: {type: Path}}
nodes:
  picture: {use: image.load, in: {path: params.image}}
  hole: {use: mask.load, in: {path: params.mask}}
outputs: {image: picture, mask: hole}
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
HOLE = PIXELS[..., 0] > 127


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "w.yaml").write_text(TEXT)
    return load_workflow(tmp_path / "w.yaml")


@pytest.fixture
def expected(workflow: Workflow, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The outputs of files with the pixels."""
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    Image.fromarray(HOLE).save(tmp_path / "mask.png")
    outputs: dict[str, torch.Tensor] = workflow.run(image=tmp_path / "image.png", mask=tmp_path / "mask.png")
    return outputs


@pytest.mark.parametrize("form", [np.array, torch.tensor, Image.fromarray], ids=["array", "tensor", "pillow"])
def test_pixels_give_what_their_file_gives(
    form: Callable[[Any], Any], workflow: Workflow, expected: dict[str, torch.Tensor]
) -> None:
    outputs = workflow.run(image=form(PIXELS), mask=form(HOLE))
    assert torch.equal(outputs["image"], expected["image"])
    assert torch.equal(outputs["mask"], expected["mask"])


def test_an_image_that_a_workflow_gave_goes_into_the_next(
    workflow: Workflow, expected: dict[str, torch.Tensor]
) -> None:
    outputs = workflow.run(image=expected["image"], mask=(HOLE * 255).astype(np.uint8))
    assert torch.equal(outputs["image"], expected["image"])
    assert torch.equal(outputs["mask"], expected["mask"])


def test_equal_pixels_are_found_in_the_cache_and_others_are_not(workflow: Workflow) -> None:
    first = workflow.run_with({"image": PIXELS, "mask": HOLE})
    again = workflow.run_with({"image": PIXELS.copy(), "mask": HOLE})
    other = workflow.run_with({"image": PIXELS[::-1], "mask": HOLE})
    assert first.digests == again.digests
    assert first.digests["nodes.picture"] != other.digests["nodes.picture"]
    assert torch.equal(other.outputs["image"], first.outputs["image"].flip(2))


@pytest.mark.parametrize(
    "value", [PIXELS.astype(float), PIXELS[None], torch.zeros(2, 3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)]
)
def test_another_form_is_refused_with_the_forms_that_are_taken(value: Any, workflow: Workflow) -> None:
    with pytest.raises(WorkflowError, match=r"'image': .*(expected the path of a file.*found|NaN)"):
        workflow.run(image=value, mask=HOLE)


def test_a_picture_of_pillow_s_is_turned_and_converted_as_its_file_is(workflow: Workflow, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as picture:
        outputs = workflow.run(image=picture, mask=HOLE)
    assert outputs["image"].shape == workflow.run(image=tmp_path / "turned.jpg", mask=HOLE)["image"].shape
    assert outputs["image"].shape == (1, 3, 24, 16)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_mode_without_8_bits_is_refused(mode: str, workflow: Workflow) -> None:
    with pytest.raises(WorkflowError, match=f"'image': expected .*; found a picture of Pillow's in mode {mode}"):
        workflow.run(image=Image.fromarray(PIXELS).convert(mode), mask=HOLE)


def test_pixels_of_0_to_255_as_floats_are_refused_with_the_conversion(workflow: Workflow) -> None:
    with pytest.raises(WorkflowError, match=r"found 200: x / 127\.5 - 1 converts"):
        workflow.run(image=torch.full((3, 8, 8), 200.0), mask=HOLE)


def test_a_forked_process_leaves_the_pictures_of_its_parent(workflow: Workflow) -> None:
    path = workflow.bind({"image": PIXELS, "mask": HOLE})["image"]
    child = os.fork()
    if child == 0:
        try:
            atexit._run_exitfuncs()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()

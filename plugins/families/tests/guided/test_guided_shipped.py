"""The workflows for guided-diffusion's checkpoints, from files on disk; see also test_released_workflows.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guidegraph import load_workflow
from plugins.families.tests.guided import guided_reference
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows" / "checkpoints"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    Image.fromarray(np.full((32, 32), 128, np.uint8)).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def of_guided_diffusion(workflow: str, folder: Path, **params: Any) -> Tensor:
    """The image of a shipped workflow with tiny networks, whose heads are set by hand."""
    text = (WORKFLOWS / f"{workflow}.yaml").read_text(encoding="utf-8")
    settings = "with: {attention: new, head_channels: 16, noise_schedule: cosine}"
    text = text.replace("in: {path: params.checkpoint}}", f"in: {{path: params.checkpoint}}, {settings}}}")
    (folder / f"{workflow}.yaml").write_text(text, encoding="utf-8")
    image: Tensor = load_workflow(folder / f"{workflow}.yaml").run(**params)["image"]
    return image


def test_a_class_is_drawn_under_a_classifiers_gradient(tmp_path: Path) -> None:
    flags = guided_reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
    judge_flags = guided_reference.small(num_channels=64, num_head_channels=64)
    torch.save(guided_reference.state(flags, device="cpu"), tmp_path / "model.pt")
    torch.save(guided_reference.state(judge_flags, judge=True, device="cpu", seed=1), tmp_path / "classifier.pt")
    arguments = {
        "checkpoint": tmp_path / "model.pt",
        "classifier": tmp_path / "classifier.pt",
        "shape": [3, 16, 16],
        "steps": 3,
    }
    image = of_guided_diffusion("class_conditional", tmp_path, label=[6, 1], batch=2, scale=300.0, **arguments)
    other = of_guided_diffusion("class_conditional", tmp_path, label=[6, 1], batch=2, scale=0.0, **arguments)
    assert image.shape == (2, 3, 16, 16)
    assert (image - other).abs().max() > 0.01


def test_an_enlarged_picture_depends_on_the_picture(tmp_path: Path, picture: Path, grey: Path) -> None:
    flags = guided_reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True, upsampler=True)
    torch.save(guided_reference.state(flags, device="cpu"), tmp_path / "model.pt")
    arguments = {"checkpoint": tmp_path / "model.pt", "small": 8, "size": 16, "steps": 3, "label": 2, "batch": 2}
    image = of_guided_diffusion("upsample", tmp_path, image=picture, **arguments)
    other = of_guided_diffusion("upsample", tmp_path, image=grey, **arguments)
    assert image.shape == (2, 3, 16, 16)
    assert (image - other).abs().max() > 0.01

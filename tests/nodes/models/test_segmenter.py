"""The segmenter: its shape, its loss, and its training pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.conditioning.semantic import segment
from guidegraph.nodes.models import model_nodes as model
from guidegraph.nodes.models.own.classifier import SegmentationNet, SegmenterConfig
from guidegraph.nodes.training import losses
from guidegraph_lab.augmentations import soil_images
from guidegraph_scenes.datasets import scene
from guidegraph_scenes.scene_sprites import CLASSES


def test_logits_have_the_size_of_the_picture_and_its_dtype() -> None:
    network = SegmentationNet(SegmenterConfig(classes=5, channels=8))
    assert network(torch.randn(2, 3, 32, 24)).shape == (2, 5, 32, 24)
    assert network.to(torch.bfloat16)(torch.randn(1, 3, 16, 16)).dtype == torch.float32
    with pytest.raises(ValueError, match="sides are multiples of 8"):
        network(torch.randn(1, 3, 20, 16))


def test_it_learns_from_a_map() -> None:
    batch = scene(batch=2)
    torch.manual_seed(0)
    network = SegmentationNet(SegmenterConfig(channels=8))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    history = []
    for _ in range(12):
        loss = losses.segmentation_loss(network(batch.image), batch.semantic)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]
    assert losses.segmentation_loss(40 * batch.semantic, batch.semantic) < 1e-6
    with pytest.raises(ValueError, match=r"logits \(2, 5, 64, 64\) and the map \(2, 23, 64, 64\) must have one shape"):
        losses.segmentation_loss(batch.semantic[:, :5], batch.semantic)


def test_a_saved_segmenter_loads_unchanged(tmp_path: Path) -> None:
    network: Any = model.new_segmenter(seed=1, channels=8)
    model.save_model(segmenter=network, path=tmp_path, dtype="float32")
    image = scene().image
    assert torch.equal(segment(model.load_model(path=tmp_path).segmenter, image), segment(network, image))
    assert segment(network, image).shape == (1, len(CLASSES), 64, 64)


def test_soiled_pictures_keep_their_layout() -> None:
    image = torch.zeros(4, 3, 64, 64)
    image[:, :, :, 32:] = 0.8
    soiled = soil_images(image, 3, seed=1)
    assert not torch.equal(soiled, image)
    assert torch.equal(soiled, soil_images(image, 3, seed=1))
    assert not torch.equal(soiled, soil_images(image, 4, seed=1))
    left, right = soiled[..., 8:24].mean((1, 2, 3)), soiled[..., 40:56].mean((1, 2, 3))
    assert (right - left).min() > 0.5

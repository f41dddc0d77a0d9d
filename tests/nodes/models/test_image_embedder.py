"""The pooled image embedder: its outputs keep content and drop position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guidegraph.nodes.images.image import embed_image
from guidegraph.nodes.models import model_nodes as model
from guidegraph.nodes.models.own.text_encoder import ImageModel, VisionConfig
from guidegraph_scenes.datasets import scene


def test_the_embedding_is_a_normalised_vector_with_tokens_where_asked() -> None:
    image = scene(batch=3).image
    condition = ImageModel(VisionConfig(width=16, tokens=2, channels=8))(image)
    assert condition.vector is not None
    assert condition.tokens is not None
    assert condition.vector.shape == (3, 16)
    assert condition.tokens.shape == (3, 2, 16)
    assert condition.spatial is None
    torch.testing.assert_close(condition.tokens.mean(-1), torch.zeros(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(condition.vector.var(-1, correction=0), torch.ones(3), atol=1e-2, rtol=0)
    assert ImageModel(VisionConfig(channels=8))(image).tokens is None


def test_the_embedding_takes_any_size_and_hardly_sees_a_shift() -> None:
    torch.manual_seed(0)
    network = ImageModel(VisionConfig(width=16, channels=8))
    pattern = torch.randn(1, 3, 16, 16)
    picture, moved, other = (torch.zeros(1, 3, 64, 96) for _ in range(3))
    picture[..., 16:32, 16:32] = pattern
    moved[..., 16:32, 48:64] = pattern
    other[..., 16:32, 16:32] = torch.randn(1, 3, 16, 16)
    vector, moved_vector, other_vector = (network(x).vector for x in (picture, moved, other))
    assert (vector - moved_vector).norm() < 0.1 * (vector - other_vector).norm()


def test_a_saved_embedder_comes_back_whole(tmp_path: Path) -> None:
    network: Any = model.new_image_embedder(seed=1, width=16, tokens=2, channels=8)
    model.save_model(image=network, path=tmp_path, dtype="float32")
    image = scene().image
    before, after = embed_image(network, image), embed_image(model.load_model(path=tmp_path).image, image)
    assert torch.equal(before.vector, after.vector)
    assert torch.equal(before.tokens, after.tokens)

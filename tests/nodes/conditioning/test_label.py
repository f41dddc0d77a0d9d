"""Class labels as tensors and as conditions."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from guidegraph.nodes.conditioning.label import argmax_label, constant_label, cycle_labels, embed_label
from guidegraph.nodes.models.model_nodes import load_model, new_classifier, new_label_embedder, save_model
from guidegraph.nodes.training.losses import cross_entropy
from guidegraph.nodes.training.timesteps import constant_timesteps


def test_labels_cycle_through_the_classes() -> None:
    assert cycle_labels(classes=3, batch=5).tolist() == [0, 1, 2, 0, 1]
    assert cycle_labels(classes=3, batch=4, start=2).tolist() == [2, 0, 1, 2]
    assert constant_label(label=4, batch=3).tolist() == [4, 4, 4]


def test_a_label_beyond_the_classes_raises_if_their_number_is_set() -> None:
    assert constant_label(label=[9, 0], classes=10).tolist() == [9, 0]
    assert constant_label(label=10).tolist() == [10]
    with pytest.raises(ValueError, match="the classes are 0 … 9; found label 10"):
        constant_label(label=[3, 10], batch=2, classes=10)


def test_argmax_counts_from_the_first_column() -> None:
    scores = torch.tensor([[1.0, 0, 0, 1, 0], [1, 0, 0, 0, 1]])
    assert argmax_label(scores, first=2, count=3).tolist() == [1, 2]
    assert argmax_label(scores).tolist() == [0, 0]
    with pytest.raises(ValueError, match="columns 3 … 5 are not all there: the scores have 5"):
        argmax_label(scores, first=3, count=3)


def test_argmax_of_scores_that_are_not_finite_is_refused() -> None:
    scores = torch.tensor([[1.0, 0, math.nan]])
    assert argmax_label(scores, count=2).tolist() == [0], "of these columns alone"
    with pytest.raises(ValueError, match="the scores have values that are not finite"):
        argmax_label(scores)


def test_a_label_selects_its_embedding_row_and_no_label_the_last() -> None:
    embedder = new_label_embedder(classes=4, width=6, seed=1)
    weight = embedder.embedding.weight  # type: ignore[attr-defined]
    condition = embed_label(embedder, torch.tensor([2, 0]))
    assert condition.vector is not None
    torch.testing.assert_close(condition.vector, weight[[2, 0]])
    nothing = embed_label(embedder)
    assert nothing.vector is not None
    torch.testing.assert_close(nothing.vector, weight[4:])
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=r"labels are 0 … 3, and 4 for none"):
            embed_label(embedder, torch.tensor([0, wrong]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype_select_the_same_rows(dtype: torch.dtype) -> None:
    embedder = new_label_embedder(seed=0, classes=3, width=4)
    labels = torch.tensor([2, 0])
    assert torch.equal(embed_label(embedder, labels.to(dtype)).vector, embed_label(embedder, labels).vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_that_are_not_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"of an integer dtype; found {dtype}"):
        embed_label(new_label_embedder(seed=0, classes=3, width=4), torch.ones(2, dtype=dtype))


def test_label_embedders_and_classifiers_are_saved_with_the_model(tmp_path: Path) -> None:
    label = new_label_embedder(classes=4, width=6, seed=1)
    classifier = new_classifier(classes=4, size=8, channels=8, multipliers=(1, 2), attention=(1,), patch=2, heads=2)
    save_model(label=label, classifier=classifier, path=tmp_path, dtype="float32")
    loaded = load_model(path=tmp_path)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    torch.testing.assert_close(loaded.classifier(x, t), classifier(x, t))
    assert loaded.label.classes == 4
    torch.testing.assert_close(embed_label(loaded.label).vector, embed_label(label).vector)
    with pytest.raises(ValueError, match="has no part 'denoiser'"):
        loaded.denoiser(x, t, embed_label(label))


def test_cross_entropy_is_torchs_of_vectors_and_of_maps() -> None:
    logits, label = torch.randn(3, 4), torch.tensor([1, 0, 3])
    torch.testing.assert_close(cross_entropy(logits, label), F.cross_entropy(logits, label))
    maps, labels = torch.randn(2, 4, 3, 3), torch.randint(0, 4, (2, 3, 3))
    torch.testing.assert_close(cross_entropy(maps, labels), F.cross_entropy(maps, labels))


def test_constant_timesteps_have_one_for_each_sample() -> None:
    assert constant_timesteps(torch.zeros(3, 1, 2, 2), t=7).tolist() == [7.0, 7.0, 7.0]


def test_a_missing_model_part_raises_only_on_use(tmp_path: Path) -> None:
    save_model(label=new_label_embedder(classes=4, width=6), path=tmp_path)
    missing = load_model(path=tmp_path).autoencoder
    assert not hasattr(missing, "parameters")
    copy.copy(missing)
    with pytest.raises(ValueError, match="has no part 'autoencoder'"):
        missing.encode(torch.zeros(1, 3, 8, 8))

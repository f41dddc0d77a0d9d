"""Composed scenes: reproducibility, contents, and held-out pairs."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from guidegraph.nodes.training.batches import FunctionBatches
from guidegraph_lab.augmentations import degrade_images, drop_captions
from guidegraph_scenes import datasets
from guidegraph_scenes.batches import emoji_batch, load_emoji, scene_batch
from guidegraph_scenes.datasets import emoji, scenes
from guidegraph_scenes.scene_sprites import CLASSES, GROUNDS, OBJECTS, SKIES, data_file
from guidegraph_scenes.scenes import HELD_OUT_PAIRS, PAIRS, TRAIN_PAIRS, compose_scene


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first = compose_scene(3, 17)
    for other in range(5):
        compose_scene(other, 17)
    again = compose_scene(3, 17)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.semantic, again.semantic)
    assert first.caption == again.caption
    assert not np.array_equal(first.image, compose_scene(3, 18).image)
    assert not np.array_equal(first.image, compose_scene(4, 17).image)


def test_a_known_scene_does_not_change_between_versions() -> None:
    scene = compose_scene(0, 0)
    assert (scene.caption, scene.objects, scene.sky, scene.ground) == ("a flamingo on white snow at night", (3,), 1, 2)
    areas = dict(zip(*np.unique(scene.semantic, return_counts=True), strict=True))
    assert areas == pytest.approx({3: 304, 17: 1772, 21: 2020}, abs=2)
    assert scene.image[2, 3].tolist() == pytest.approx([2, 16, 42], abs=1)
    assert scene.image[60, 5].tolist() == pytest.approx([170, 176, 207], abs=1)


def test_a_fifth_of_the_pairs_is_held_out_three_for_each_object() -> None:
    assert len(OBJECTS) == 16
    assert set(PAIRS) == set(combinations(range(16), 2))
    assert len(HELD_OUT_PAIRS) == 24
    assert set(HELD_OUT_PAIRS).isdisjoint(TRAIN_PAIRS)
    assert set(HELD_OUT_PAIRS) | set(TRAIN_PAIRS) == set(PAIRS)
    assert set(Counter(obj for pair in HELD_OUT_PAIRS for obj in pair).values()) == {3}


def test_held_out_pairs_never_occur_in_training_and_only_they_in_the_other_split() -> None:
    train = [compose_scene(0, i) for i in range(400)]
    held_out = [compose_scene(0, i, split="held_out") for i in range(200)]
    seen = {tuple(sorted(scene.objects)) for scene in train if len(scene.objects) == 2}
    assert seen.isdisjoint(HELD_OUT_PAIRS)
    assert {len(scene.objects) for scene in train} == {1, 2}
    assert {tuple(sorted(scene.objects)) for scene in held_out} == set(HELD_OUT_PAIRS)
    assert {obj for scene in train for obj in scene.objects} == set(range(16))


def test_the_semantic_map_holds_exactly_the_scenes_classes() -> None:
    for i in range(100):
        scene = compose_scene(5, i, split="all")
        assert scene.semantic.shape == (64, 64)
        assert set(np.unique(scene.semantic)) == set(np.flatnonzero(scene.labels))
        assert scene.labels[len(OBJECTS) + scene.sky]
        assert scene.labels[len(OBJECTS) + len(SKIES) + scene.ground]


def test_the_semantic_map_is_exact_where_the_background_shows() -> None:
    """By day on sand, where a pixel's colour tells the sky from the ground."""
    scene = next(
        s for s in (compose_scene(0, i) for i in range(500)) if (SKIES[s.sky], GROUNDS[s.ground]) == ("day", "sand")
    )
    pixels = scene.image.astype(float)
    sky = pixels[scene.semantic == len(OBJECTS) + scene.sky]
    ground = pixels[scene.semantic == len(OBJECTS) + len(SKIES) + scene.ground]
    assert (sky[:, 2] > sky[:, 0]).mean() > 0.98  # blue above
    assert (ground[:, 2] < ground[:, 0]).mean() > 0.98  # yellow below


def test_most_of_both_objects_is_visible() -> None:
    for i in range(200):
        scene = compose_scene(8, i, split="held_out")
        for obj in scene.objects:
            assert (scene.semantic == obj).sum() > 60


def test_the_order_in_the_caption_is_independent_of_left_and_right() -> None:
    agree = []
    for i in range(400):
        scene = compose_scene(1, i, split="held_out")
        left, right = (OBJECTS[obj] for obj in scene.objects)
        agree.append(scene.caption.index(left) < scene.caption.index(right))
    assert 0.4 < np.mean(agree) < 0.6


def test_captions_use_the_words_of_new_text_transformers_and_name_every_object() -> None:
    words = set(json.loads(data_file("caption_words.json").read_text()))
    captions = [(scene, scene.caption) for scene in (compose_scene(2, i) for i in range(300))]
    for scene, caption in captions:
        assert set(re.findall(r"\w+|[^\w\s]+", caption)) <= words
        assert all(OBJECTS[obj] in caption for obj in scene.objects)
    assert len({caption for _, caption in captions}) > 250


def test_a_batch_is_made_of_the_scenes_in_order() -> None:
    batch = scene_batch(4, 3, 2, split="train", single=0.25, partial=0.1)
    expected = [compose_scene(4, 6 + i) for i in range(3)]
    assert batch.image.shape == (3, 3, 64, 64)
    assert batch.semantic.shape == (3, len(CLASSES), 64, 64)
    assert batch.caption == tuple(scene.caption for scene in expected)
    pixels = ((batch.image.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(pixels, np.stack([scene.image for scene in expected]))
    assert np.array_equal(batch.semantic.argmax(1).numpy(), np.stack([scene.semantic for scene in expected]))
    assert batch.semantic.sum(1).eq(1).all()


def test_scenes_as_an_input_are_the_first_ones_of_the_data_set() -> None:
    some, batch = datasets.scene(seed=5, batch=3), scenes(seed=5, batch=3, count=1, split="held_out").batches[0]
    assert (some.image == batch.image).all()
    assert (some.semantic == batch.semantic).all()
    assert some.caption == batch.caption


def test_batches_are_an_indexable_sequence() -> None:
    made = scenes(seed=1, batch=2, count=3).batches
    assert len(made) == 3
    assert made[-1].caption == made[2].caption
    assert [len(b.caption) for b in made[0:2]] == [2, 2]
    with pytest.raises(IndexError, match="batch 3 of 3"):
        made[3]
    assert list(FunctionBatches(4, lambda i: i * i)) == [0, 1, 4, 9]


def test_dropped_captions_are_the_empty_prompt_and_depend_on_the_index() -> None:
    captions = tuple(f"caption {i}" for i in range(400))
    dropped = drop_captions(captions, 7, p=0.25)
    assert set(dropped) <= {*captions, ""}
    assert 60 < dropped.count("") < 140
    assert dropped == drop_captions(captions, 7, p=0.25)
    assert dropped != drop_captions(captions, 8, p=0.25)
    assert drop_captions(captions, p=0.0) == captions
    assert set(drop_captions(captions, p=1.0)) == {""}


def test_the_emoji_set_is_complete_without_flags_and_skin_tones() -> None:
    data = load_emoji()
    assert len(data.names) == len(data.pixels) > 3000
    assert "Flags" not in data.category
    assert not any("skin tone" in name for name in data.names)
    assert sum(bool(words) for words in data.keywords) > 0.8 * len(data.names)


def test_emoji_batches_depend_on_seed_and_index_and_can_keep_to_a_category() -> None:
    first, again = emoji(batch=4).batches[5], emoji(batch=4).batches[5]
    assert first.image.shape == (4, 3, 64, 64)
    assert (first.image == again.image).all()
    assert first.caption == again.caption
    assert first.image.min() >= -1
    assert first.image.max() == 1  # the white ground
    with pytest.raises(ValueError, match="no category 'Nothing'; there are Activities"):
        emoji_batch(0, 1, 0, category="Nothing")


def test_degraded_pictures_depend_on_seed_and_index_and_stay_in_range() -> None:
    image = scene_batch(0, 4, 0, split="all", single=0.2, partial=0.0).image
    damaged = degrade_images(image, 3)
    assert damaged.shape == image.shape
    assert damaged.abs().max() <= 1
    assert (damaged == degrade_images(image, 3)).all()
    assert (damaged != degrade_images(image, 4)).any()
    assert 0 < (damaged - image).abs().mean() < 0.6

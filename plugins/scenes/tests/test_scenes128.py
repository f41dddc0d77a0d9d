"""Scenes of 128 pixels: what is in them, where, in which colours, and what their captions say."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from guidegraph_scenes.batches import SceneBatch128
from guidegraph_scenes.scenes128 import content as held_out
from guidegraph_scenes.scenes128 import phrases
from guidegraph_scenes.scenes128 import vocabulary as words
from guidegraph_scenes.scenes128.artwork import TINTS, cut_out, load_artwork, to_oklab
from guidegraph_scenes.scenes128.captions import choose_wording
from guidegraph_scenes.scenes128.content import Background, Content, Group, choose_content
from guidegraph_scenes.scenes128.dataset import colour_map, object_share, scene_128, scene_map, scenes_128
from guidegraph_scenes.scenes128.draws import CONTENT, LAYOUT, Draws
from guidegraph_scenes.scenes128.layout import CELL, SIDES, SIZE, Layout, PlacedObject, lay_out
from guidegraph_scenes.scenes128.scene import Scene128, compose_scene

COUNT = 400


@pytest.fixture(scope="module")
def train() -> list[Scene128]:
    return [compose_scene(0, i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def unseen() -> list[Scene128]:
    return [compose_scene(0, i, split="held_out") for i in range(COUNT)]


@pytest.fixture(scope="module")
def layouts() -> list[tuple[Content, Layout]]:
    contents = [choose_content(5, i, CONTENT, "all", 0.2) for i in range(3000)]
    return [(content, lay_out(content, Draws(5, i, LAYOUT))) for i, content in enumerate(contents)]


def members(content: Content, layout: Layout) -> list[list[PlacedObject]]:
    """The objects of each group."""
    return [[p for p in layout.placements if p.group == number] for number in range(len(content.groups))]


def test_a_scene_depends_on_seed_and_index_alone(train: list[Scene128]) -> None:
    again = compose_scene(0, 17)
    assert np.array_equal(train[17].image, again.image)
    assert train[17].caption == again.caption
    assert train[17].content == again.content
    assert not np.array_equal(again.image, compose_scene(1, 17).image)


@pytest.mark.parametrize(("batch", "index"), [(6, 0), (3, 1), (2, 2), (1, 5)])
def test_a_scene_is_the_same_in_a_batch_of_any_size(train: list[Scene128], batch: int, index: int) -> None:
    scenes: SceneBatch128 = scenes_128(batch=batch).batches[index]
    expected = train[batch * index : batch * (index + 1)]
    pixels = ((scenes.image.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(pixels, np.stack([scene.image for scene in expected]))
    assert np.array_equal(scenes.object, np.stack([scene.objects.object for scene in expected]))
    assert scenes.sky.tolist() == [scene.content.background.sky for scene in expected]
    assert list(scenes.caption) == [scene.caption for scene in expected]


def test_a_known_scene_does_not_change_between_versions(train: list[Scene128]) -> None:
    scene = train[1]
    assert scene.caption == (
        "this picture shows two small black castles on the left and one red penguin on the right on a bed of leaves "
        "by day"
    )
    assert [tuple(p[:7]) for p in scene.layout.placements] == [
        (1, 30, 32, 65, 80, 21, 32),
        (0, 96, 24, 0, 97, 24, 23),
        (0, 96, 24, 32, 97, 24, 23),
    ]
    assert scene.image[5, 5].tolist() == pytest.approx([98, 157, 247], abs=2)
    assert scene.image[100, 40].tolist() == pytest.approx([134, 95, 57], abs=2)


def test_there_are_enough_of_everything() -> None:
    assert len(words.OBJECTS) >= 64
    assert len(words.COLOURS) == len(TINTS) == 11
    assert min(len(words.GROUNDS), len(words.WEATHERS)) >= 8
    names = [name for kind in words.OBJECTS for name in (kind.name, *(singular for singular, _ in kind.synonyms))]
    assert len(set(names) - {"cactus"}) == len(names) - 2  # cactus is a synonym for its other plural


def test_scenes_show_every_object_colour_ground_sky_weather_and_number() -> None:
    contents = [choose_content(2, i, CONTENT, "train", 0.2) for i in range(4000)]
    groups = [group for content in contents for group in content.groups]
    assert {group.object for group in groups} == set(range(len(words.OBJECTS)))
    assert {group.colour for group in groups} == {words.NATURAL, *range(len(words.COLOURS))}
    assert {group.size for group in groups} == {words.SMALL, words.NORMAL, words.LARGE}
    assert {sum(g.number for g in content.groups) for content in contents} == {1, 2, 3, 4}
    backgrounds = [content.background for content in contents]
    for field, options in (("ground", words.GROUNDS), ("sky", words.SKIES), ("weather", words.WEATHERS)):
        assert Counter(getattr(b, field) for b in backgrounds).keys() == set(range(len(options)))
    relations = Counter(content.relation for content in contents)
    assert min(relations[r] for r in (words.LEFT_OF, words.ABOVE, words.IN_FRONT_OF)) > 100


def test_single_is_the_fraction_of_scenes_with_one_object() -> None:
    assert all(sum(g.number for g in choose_content(3, i, CONTENT, "train", 1.0).groups) == 1 for i in range(50))
    assert all(sum(g.number for g in choose_content(3, i, CONTENT, "train", 0.0).groups) > 1 for i in range(50))


def test_no_training_scene_has_a_held_out_composition() -> None:
    for i in range(4000):
        groups = choose_content(7, i, CONTENT, "train", 0.2).groups
        assert not any(held_out.is_held_out_pair(a.object, b.object) for a, b in combinations(groups, 2))
        assert not any(held_out.is_held_out_colour(g.object, g.colour) for g in groups)
        assert not any(held_out.is_held_out_count(g.object, g.number) for g in groups)


def test_every_held_out_scene_has_one(unseen: list[Scene128]) -> None:
    reasons: Counter[str] = Counter()
    for scene in unseen:
        groups = scene.content.groups
        reasons["pair"] += any(held_out.is_held_out_pair(a.object, b.object) for a, b in combinations(groups, 2))
        reasons["colour"] += any(held_out.is_held_out_colour(g.object, g.colour) for g in groups)
        reasons["count"] += any(held_out.is_held_out_count(g.object, g.number) for g in groups)
        assert held_out.is_held_out((g.object, g.number, g.colour) for g in groups)
    assert min(reasons.values()) > COUNT / 10


def test_each_object_has_its_share_of_what_is_held_out() -> None:
    pairs = held_out.list_pairs(held_out=True)
    assert len(pairs) == 320
    assert set(Counter(kind for pair in pairs for kind in pair).values()) == {10}
    assert set(pairs).isdisjoint(held_out.list_pairs(held_out=False))
    assert set(Counter(kind for kind, _ in held_out.list_held_out_colours()).values()) == {2}
    for kind, colour in held_out.list_held_out_colours():
        assert colour not in {words.natural_colour(kind, artwork) for artwork in (0, 1)}
    counts = [(k, n) for k in range(64) for n in range(1, 5) if held_out.is_held_out_count(k, n)]
    assert Counter(n for _, n in counts) == {2: 10, 3: 11, 4: 11}


def test_sentence_forms_are_held_out_too(train: list[Scene128], unseen: list[Scene128]) -> None:
    forms = re.compile(r"look at|i see|you can find", re.IGNORECASE)
    assert not any(forms.search(scene.caption) for scene in train)
    assert 0.4 < sum(bool(forms.search(scene.caption)) for scene in unseen) / COUNT < 0.6


def test_objects_lie_in_the_picture_and_most_of_each_can_be_seen(layouts: list[tuple[Content, Layout]]) -> None:
    for content, layout in layouts:
        owner = np.zeros((SIZE, SIZE), int)
        areas = []
        for number, p in enumerate(layout.placements):
            assert p.left >= 0
            assert p.top >= 0
            assert p.left + p.width <= SIZE
            assert p.bottom <= SIZE
            shape = cut_out(p.sprite, words.NATURAL, p.longer).alpha[..., 0] >= 0.5
            owner[p.top : p.bottom, p.left : p.left + p.width][shape] = number + 1
            areas.append(shape.sum())
        seen = [(owner == number + 1).sum() / area for number, area in enumerate(areas)]
        assert min(seen) > (0.4 if content.relation == words.IN_FRONT_OF else 0.7)


def test_an_object_of_a_size_lies_alike_in_the_cells_of_the_latent(layouts: list[tuple[Content, Layout]]) -> None:
    offsets: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for _, layout in layouts:
        for p in layout.placements:
            offsets.setdefault((p.sprite, p.longer), set()).add((p.left % CELL, p.top % CELL))
    assert {longer for _, longer in offsets} <= set(SIDES)
    assert all(len(places) == 1 for places in offsets.values())


def test_objects_that_find_no_room_in_a_row_are_smaller() -> None:
    group = Group(words.NAMES.index("car"), 3, words.NATURAL, words.LARGE, 0)
    layout = lay_out(Content((group,), words.NO_RELATION, Background(0, 0, 0)), Draws(0, 0, LAYOUT))
    assert {p.longer for p in layout.placements} == {40}
    columns = sorted((p.left // CELL, p.columns) for p in layout.placements)
    assert all(a + width <= b for (a, width), (b, _) in pairwise(columns))


def test_objects_are_where_the_relation_says(layouts: list[tuple[Content, Layout]]) -> None:
    for content, layout in layouts:
        if content.relation == words.NO_RELATION:
            continue
        first, second = members(content, layout)
        if content.relation == words.LEFT_OF:
            assert max(p.left + p.width for p in first) <= min(p.left for p in second) + 1
        elif content.relation == words.ABOVE:
            assert first[0].flies
            assert not second[0].flies
            assert first[0].bottom <= second[0].top
        else:
            a, b = first[0], second[0]
            assert a.bottom > b.bottom
            assert min(a.left + a.width, b.left + b.width) - max(a.left, b.left) > 2
            assert a.top < b.bottom
            assert layout.placements[-1] == a


def test_groups_in_order_are_in_order_from_left_to_right(layouts: list[tuple[Content, Layout]]) -> None:
    ordered = [(c, y) for c, y in layouts if y.in_order and len(c.groups) > 2]
    assert len(ordered) > 50
    for content, layout in ordered:
        middles = [[p.left + p.width / 2 for p in group] for group in members(content, layout)]
        assert all(max(a) < min(b) for a, b in pairwise(middles))


def test_small_objects_are_smaller_than_normal_ones_and_those_than_large_ones(
    layouts: list[tuple[Content, Layout]],
) -> None:
    for total in (1, 2, 3):
        sides: dict[int, list[int]] = {size: [] for size in range(3)}
        for content, layout in layouts:
            if len(layout.placements) == total and content.relation != words.IN_FRONT_OF:
                for p in layout.placements:
                    sides[content.groups[p.group].size].append(p.longer)
        assert max(sides[words.SMALL]) < min(sides[words.NORMAL])
        assert np.mean(sides[words.SMALL]) * 1.3 < np.mean(sides[words.NORMAL])
        assert np.mean(sides[words.NORMAL]) * 1.25 < np.mean(sides[words.LARGE])


NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "2": 2, "pair": 2, "couple": 2, "three": 3, "3": 3, "four": 4, "4": 4}
PHRASE = (
    r"\b(a pair of|a couple of|an?|one|two|three|four|[234]) ((?:(?:ADJECTIVES) )*)(NOUNS)\b(?: that (?:is|are) (\w+))?"
)
TIMES = ((r"\bnight\b", 3), (r"\b(sunset|dusk|evening)\b", 2), (r"\b(dawn|sunrise|morning)\b", 1))
"""Words for a time of day, and the index of its sky."""


def noun_forms() -> dict[str, tuple[int, bool]]:
    """Every noun for an object: its index, and whether it is a plural."""
    forms: dict[str, tuple[int, bool]] = {}
    for index, kind in enumerate(words.OBJECTS):
        for singular, plural in ((kind.name, kind.plural), *kind.synonyms):
            forms[plural] = (index, True)
            forms.setdefault(singular, (index, False))
    return forms


def read_groups(caption: str) -> list[tuple[int, int, str, str]]:
    """The objects that a caption names: (object, number, colour, size), by a reading of its own."""
    forms = noun_forms()
    nouns = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    colours = {word: name for name, variants in phrases.COLOUR_WORDS.items() for word in variants}
    sizes = {word: words.SIZES[size] for size, variants in phrases.SIZE_WORDS.items() for word in variants}
    adjectives = "|".join([*colours, *sizes])
    pattern = re.compile(PHRASE.replace("NOUNS", nouns).replace("ADJECTIVES", adjectives))
    groups = []
    for number, before, noun, after in pattern.findall(caption.lower()):
        named = [*before.split(), after]
        colour = next((colours[word] for word in named if word in colours), "")
        size = next((sizes[word] for word in named if word in sizes), "normal")
        count = NUMBERS[number.split()[1] if " " in number else number]
        groups.append((forms[noun][0], count, colour, size))
    return groups


def test_a_caption_names_every_object_with_its_number_and_what_it_says_of_them_is_true(
    train: list[Scene128], unseen: list[Scene128]
) -> None:
    for scene in train + unseen:
        groups = {g.object: g for g in scene.content.groups}
        named = read_groups(scene.caption)
        assert sorted(kind for kind, *_ in named) == sorted(groups), scene.caption
        for kind, count, colour, size in named:
            group = groups[kind]
            assert count == group.number, scene.caption
            natural = words.natural_colour(kind, group.artwork)
            index = natural if group.colour == words.NATURAL else group.colour
            assert colour in ("", words.COLOURS[index] if index >= 0 else ""), scene.caption
            assert size == "normal" or words.SIZES[group.size] == size, scene.caption


def test_a_caption_says_no_relation_ground_time_or_weather_that_is_not_there(
    train: list[Scene128], unseen: list[Scene128]
) -> None:
    said: Counter[str] = Counter()
    for scene in train + unseen:
        caption, background = scene.caption.lower(), scene.content.background
        left = re.search(r"left of|on the left|to the left", caption)
        right = re.search(r"right of|on the right|to the right", caption)
        if (left or right) and "from left to right" not in caption:
            assert scene.content.relation == words.LEFT_OF
            first = read_groups(caption)[0][0]
            is_first_left = scene.content.groups[0].object == first
            assert is_first_left == bool(left)
            said["beside"] += 1
        if re.search(r"\b(in front of|behind|partly hidden by)\b", caption):
            assert scene.content.relation == words.IN_FRONT_OF
            is_front_first = scene.content.groups[0].object == read_groups(caption)[0][0]
            assert is_front_first == ("in front of" in caption)
            said["in front"] += 1
        for word, index in (("rain", 3), ("snowfall", 4), ("fog", 5), ("storm", 6), ("rainbow", 7), ("overcast", 2)):
            if re.search(rf"\b{word}(y|gy)?\b", caption):
                assert background.weather == index, caption
                said[word] += 1
        for pattern, index in TIMES:
            if re.search(pattern, caption):
                assert background.sky == index, caption
                said[pattern] += 1
        for ground, texts in phrases.ON_GROUND.items():
            if any(f"{text} " in f"{caption} " for text in texts):
                assert words.GROUNDS[background.ground] == ground, caption
                assert not any(p.flies for p in scene.layout.placements), caption
                said[ground] += 1
    assert len(said) == 2 + 6 + 3 + 8
    assert min(said.values()) >= 5


def test_captions_keep_to_the_vocabulary_and_differ_in_form(train: list[Scene128], unseen: list[Scene128]) -> None:
    known = set(phrases.caption_words())
    for scene in train + unseen:
        assert set(re.findall(r"\w+|[^\w\s]+", scene.caption.lower())) <= known
        assert not re.search(r"\s\s|\s[,.]|,,|\{", scene.caption)
    assert len({scene.caption for scene in train}) > 0.97 * COUNT
    shapes = {re.sub(r"\b[a-z]{4,}\b", "x", scene.caption.lower()) for scene in train}
    assert len(shapes) > COUNT / 3


RELATION_WORDS = {
    words.LEFT_OF: r"\b(left|right)\b",
    words.ABOVE: r"\b(above|over|below|under|beneath)\b",
    words.IN_FRONT_OF: r"\b(in front of|behind|hidden by)\b",
}


def test_with_partial_0_a_caption_names_place_time_weather_colours_sizes_and_relation() -> None:
    complete = [compose_scene(4, i, wording=choose_wording("train", partial=0)) for i in range(60)]
    for scene in complete:
        caption, background = scene.caption.lower(), scene.content.background
        sky, weather = words.SKIES[background.sky], words.WEATHERS[background.weather]
        ground = words.GROUNDS[background.ground]
        places = (phrases.ON_GROUND, phrases.OVER_GROUND, phrases.IN_SCENERY, phrases.SCENERY)
        assert any(text in caption for texts in places for text in texts[ground])
        assert any(text in caption for text in (*phrases.TIMES[sky], phrases.TIME_NOUNS[sky]))
        adjectives = [phrases.WEATHER_ADJECTIVES[weather]] if weather in phrases.WEATHER_ADJECTIVES else []
        assert any(text in caption for text in (*phrases.WEATHER[weather], *adjectives))
        groups = {group.object: group for group in scene.content.groups}
        for kind, _, colour, size in read_groups(caption):
            assert colour or groups[kind].colour == words.NATURAL
            assert size == words.SIZES[groups[kind].size]
        assert re.search(RELATION_WORDS.get(scene.content.relation, ""), caption)
    batch = scenes_128(seed=4, batch=60, partial=0.0).batches[0]
    assert list(batch.caption) == [scene.caption for scene in complete]


def test_with_partial_1_a_caption_names_no_time_and_the_picture_is_the_same() -> None:
    times = re.compile("|".join([*(t for ts in phrases.TIMES.values() for t in ts), *phrases.TIME_NOUNS.values()]))
    scenes, sparse = (scenes_128(seed=4, batch=60, partial=partial).batches[0] for partial in (0.0, 1.0))
    assert not any(times.search(caption.lower()) for caption in sparse.caption)
    assert (scenes.image == sparse.image).all()


def test_classes_of_pixels_are_those_of_the_scene(train: list[Scene128]) -> None:
    scenes = scenes_128(batch=20).batches[0]
    semantic = scene_map(scenes.classes)
    assert semantic.shape == (20, len(words.CLASSES), 128, 128)
    assert (semantic.sum(1) == 1).all()
    for classes, scene in zip(scenes.classes, train, strict=False):
        background = scene.content.background
        expected = {g.object for g in scene.content.groups}
        expected |= {64 + background.ground, 64 + len(words.GROUNDS) + background.sky}
        assert set(classes.unique().tolist()) == expected
    torch.testing.assert_close(scene_map(scenes.classes, size=16), torch.nn.functional.avg_pool2d(semantic, 8))
    with pytest.raises(ValueError, match="'size' 24 does not divide the sides of a map of 128 × 128"):
        scene_map(scenes.classes, size=24)
    with pytest.raises(ValueError, match="expected 'classes' from 0 to 75"):
        scene_map(torch.full((1, 4, 4), 200, dtype=torch.uint8))
    with pytest.raises(ValueError, match="values from -1 to -1"):
        scene_map(torch.full((1, 4, 4), -1))
    with pytest.raises(ValueError, match=r"found shape \(0, 4\)"):
        scene_map(torch.zeros(0, 4))


def test_object_shares_are_the_means_of_the_owned_pixels(train: list[Scene128]) -> None:
    (batch,) = scenes_128(batch=8, count=1).batches
    owned = torch.from_numpy(np.stack([scene.owner > 0 for scene in train[:8]])).float()
    expected = torch.nn.functional.avg_pool2d(owned[:, None], 8)
    torch.testing.assert_close(object_share(batch.classes, size=16), expected)


def test_colour_shares_are_those_of_the_objects_pixels(train: list[Scene128]) -> None:
    (batch,) = scenes_128(batch=20, count=1).batches
    colours = colour_map(batch.classes, batch.object, batch.colour, size=128)
    nothing = len(words.COLOURS)
    assert colours.shape == (20, nothing + 1, 128, 128)
    seen = set()
    for map_, scene, kinds, named in zip(colours.argmax(1), train, batch.object, batch.colour, strict=False):
        expected = np.full(scene.owner.shape, nothing)
        for number, _ in enumerate(scene.layout.placements):
            (colour,) = {int(c) for k, c in zip(kinds, named, strict=True) if k == kinds[number]}
            expected[scene.owner == number + 1] = nothing if colour < 0 else colour
        assert np.array_equal(map_.numpy(), expected)
        seen |= set(expected.flat)
    assert nothing in seen
    assert len(seen) > 6
    coarse = colour_map(batch.classes, batch.object, batch.colour, size=16)
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(colours, 8))
    with pytest.raises(ValueError, match="'size' 24 does not divide the sides of a map of 128 × 128"):
        colour_map(batch.classes, batch.object, batch.colour, size=24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": torch.zeros(8, 8)}, r"expected classes \(B, H, W\), as of data.scenes_128; found shape \(8, 8\)"),
        ({"classes": torch.full((2, 8, 8), 76)}, "expected 'classes' from 0 to 75, .* found values from 76 to 76"),
        ({"object": torch.full((2, 3), 64)}, "expected 'object' from -1 to 63, .* found values from 64 to 64"),
        ({"colour": torch.full((2, 3), 11)}, "expected 'colour' from -1 to 10, .* found values from 11 to 11"),
        ({"colour": torch.zeros(2, 3)}, "expected 'colour' of whole numbers, .* found torch.float32"),
        ({"colour": torch.zeros(1, 3, dtype=torch.long)}, r"found \(2, 3\) and \(1, 3\)"),
    ],
)
def test_colours_of_another_form_are_refused_with_what_is_expected(
    changes: dict[str, torch.Tensor], message: str
) -> None:
    scenes = {
        "classes": torch.zeros(2, 8, 8, dtype=torch.long),
        **dict.fromkeys(("object", "colour"), torch.zeros(2, 3).long()),
    }
    with pytest.raises(ValueError, match=message):
        colour_map(**{**scenes, **changes}, size=4)


def test_colours_are_whole_numbers_of_any_width() -> None:
    (scenes,) = scenes_128(batch=2, count=1).batches
    narrow = (tensor.to(torch.int32) for tensor in (scenes.classes, scenes.object, scenes.colour))
    assert torch.equal(colour_map(*narrow), colour_map(scenes.classes, scenes.object, scenes.colour))


def test_a_seed_beyond_the_random_stream_is_refused_with_the_range() -> None:
    assert scene_128(seed=2**64 - 1).caption
    for seed in (2**64, 2**200):
        with pytest.raises(ValueError, match=r"a number from 0 to 2\^64 - 1; found"):
            scene_128(seed=seed)


def test_boxes_enclose_the_objects_pixels(train: list[Scene128]) -> None:
    for scene in train[:60]:
        objects = scene.objects
        assert (objects.object >= 0).sum() == len(scene.layout.placements)
        for row in range(len(scene.layout.placements)):
            ys, xs = np.nonzero(scene.owner == row + 1)
            left, top, right, bottom = objects.box[row] * SIZE
            assert left <= xs.min()
            assert xs.max() < right
            assert top <= ys.min()
            assert ys.max() < bottom
        assert (objects.box[len(scene.layout.placements) :] == -1).all()


@pytest.mark.parametrize("colour", range(len(words.COLOURS)))
def test_a_recoloured_object_is_nearest_to_its_colour(colour: int) -> None:
    """The mean of an artwork's pixels in Oklab, without the darkest and the lightest, against all tints."""
    angle = np.radians([tint.hue for tint in TINTS])
    tints = np.array(
        [[t.lightness, t.chroma * np.cos(a), t.chroma * np.sin(a)] for t, a in zip(TINTS, angle, strict=True)]
    )
    right = 0
    for sprite in range(len(load_artwork().pixels)):
        artwork = cut_out(sprite, colour, 80)
        solid = artwork.alpha[..., 0] > 0.95
        lab = to_oklab(artwork.colour[solid].astype(float))
        median = np.median(lab, axis=0)
        right += int(np.square((tints - median) * (0.7, 1.6, 1.6)).sum(1).argmin()) == colour
    assert right >= 0.85 * len(load_artwork().pixels)


def test_a_single_batch_is_the_first_of_the_data_set() -> None:
    some, first = scene_128(seed=5, batch=3), scenes_128(seed=5, batch=3, split="held_out").batches[0]
    assert some.caption == first.caption
    assert (some.image == first.image).all()
    assert (some.box == first.box).all()


def test_words_come_with_the_data_set() -> None:
    vocabulary = scenes_128().words
    assert list(vocabulary) == sorted(set(vocabulary))
    assert {"cat", "cats", "violet", "behind", "lorry", ",", "."} <= set(vocabulary)

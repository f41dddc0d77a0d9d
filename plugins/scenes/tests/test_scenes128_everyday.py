"""Captions in everyday English: true of the picture, by a reading of their own; unknown words; held-out forms."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import pytest

from guidegraph.nodes.models.own.text_encoder import build_tokenizer, tokenize
from guidegraph_runtime.text.chunks import UNKNOWN
from guidegraph_scenes.scenes128 import everyday_phrases, phrases
from guidegraph_scenes.scenes128 import vocabulary as words
from guidegraph_scenes.scenes128.captions import LayoutFacts, choose_wording
from guidegraph_scenes.scenes128.content import Content, choose_content
from guidegraph_scenes.scenes128.dataset import scenes_128
from guidegraph_scenes.scenes128.draws import CONTENT, LAYOUT, Draws
from guidegraph_scenes.scenes128.layout import lay_out
from guidegraph_scenes.scenes128.phrases import caption_words
from guidegraph_scenes.scenes128.scene import describe_scene

COUNT = 3000
SEED = 11
LENGTH = 48
"""The number of tokens of `workflows/train/text_to_image_128.yaml`."""


class Described(NamedTuple):
    content: Content
    facts: LayoutFacts
    caption: str


def describe(index: int, everyday: float, unknown: float = 0.0, partial: float = 0.4, number: int = 0) -> Described:
    content = choose_content(SEED, index, CONTENT, "train", 0.2)
    layout = lay_out(content, Draws(SEED, index, LAYOUT))
    flies = [False] * len(content.groups)
    for placement in layout.placements:
        flies[placement.group] = placement.flies
    facts = LayoutFacts(tuple(flies), layout.in_order, layout.is_near)
    wording = choose_wording("train", partial, everyday, unknown)
    return Described(content, facts, describe_scene(content, facts, SEED, index, wording, number))


@pytest.fixture(scope="module")
def everyday() -> list[Described]:
    return [describe(index, 1.0, number=index % 3) for index in range(COUNT)]


class Mention(NamedTuple):
    """A noun in a caption: the kinds that it may name, the count if it is said, colour, size, verb and position."""

    kinds: frozenset[int]
    count: int
    colour: str
    size: str
    verb: str
    start: int
    end: int


COUNTS = {"two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4, "pair": 2, "couple": 2}
DETERMINERS = (
    "a an one single the my this our your that his her these those some several few group of just only exactly"
)
PASSED = f"{DETERMINERS} very really mini miniature giant enormous coloured colored {' '.join(COUNTS)}".split()
SIZES = {"small": "small little tiny mini miniature", "large": "large big huge giant enormous"}
AIRBORNE = ("flying", "hovering", "in flight")
OTHER_VERBS = (
    "standing|sitting|waiting|resting|relaxing|playing|walking|swimming|floating|parked|driving|stopped|sailing|"
)
OTHER_VERBS += "anchored|growing|lying|placed"
UPRIGHT = {"chair", "umbrella", "robot", "snowman", "clock", "teapot", "cake", "pineapple", "balloon"}
SCENERY = re.compile(
    r"(field|meadow)s? (full )?(of|with) flowers|(among|between|by|over|above) (the wild )?flowers"
    r"|flowery? (meadow|field|garden)|a bed of leaves"
)


def blank(caption: str) -> str:
    """The caption in lower case, without the flowers that are no objects."""
    return SCENERY.sub(lambda match: " " * len(match[0]), caption.lower())


def read_mentions(caption: str) -> list[Mention]:
    """The objects that a caption names, in its order."""
    nouns: dict[str, set[tuple[int, bool]]] = {}
    for index, kind in enumerate(words.OBJECTS):
        for pair in ((kind.name, kind.plural), *kind.synonyms, *everyday_phrases.NOUNS.get(kind.name, ())):
            for is_plural, noun in enumerate(pair):
                nouns.setdefault(noun, set()).add((index, bool(is_plural)))
    adjectives = everyday_phrases.ADJECTIVES + everyday_phrases.ADJECTIVES_OF_ANIMALS
    adjectives += everyday_phrases.ADJECTIVES_OF_FOOD + everyday_phrases.ADJECTIVES_OF_VEHICLES
    colours = {word: name for name, variants in phrases.COLOUR_WORDS.items() for word in variants}
    sizes = {word: size for size, text in SIZES.items() for word in text.split()}
    pattern = "|".join(sorted(map(re.escape, nouns), key=len, reverse=True))
    after = rf"(?: (?:that|which) (?:is|are) ({'|'.join(colours)})\b)?"
    after += rf"(?:(?: (?:that|which))?(?: (?:is|are))? ({'|'.join(AIRBORNE)}|{OTHER_VERBS})\b)?"
    mentions = []
    text = blank(caption)
    for match in re.finditer(rf"\b({pattern})\b{after}", text):
        before: list[str] = []
        for word in reversed(text[: match.start()].replace(",", " , ").split()):
            if word not in (*PASSED, *adjectives, *colours, *sizes):
                break
            before.append(word)
        forms = nouns[match[1]]
        count = next((COUNTS[word] for word in before if word in COUNTS), 0)
        count = count or (1 if {is_plural for _, is_plural in forms} == {False} else 0)
        colour = next((colours[word] for word in before if word in colours), "") or colours.get(match[2] or "", "")
        size = next((sizes[word] for word in before if word in sizes), "")
        kinds = frozenset(index for index, _ in forms)
        mentions.append(Mention(kinds, count, colour, size, match[3] or "", match.start(), match.end()))
    return mentions


def test_the_objects_are_named_with_their_numbers_colours_sizes_and_verbs(everyday: list[Described]) -> None:
    said: Counter[str] = Counter()
    for content, facts, caption in everyday:
        mentions = read_mentions(caption)
        if not mentions:
            said["no object"] += 1
            continue
        assert len(mentions) == len(content.groups), caption
        for mention in mentions:
            rows = [row for row, g in enumerate(content.groups) if g.object in mention.kinds]
            rows = [row for row in rows if mention.count in (0, content.groups[row].number)] or rows
            number, kind = rows[0], words.OBJECTS[content.groups[rows[0]].object]
            group, flies = content.groups[number], facts.flies[number]
            if len(rows) == 1:
                assert mention.count in (0, group.number), caption
                natural = words.natural_colour(group.object, group.artwork)
                index = natural if group.colour == words.NATURAL else group.colour
                assert mention.colour in ("", words.COLOURS[index] if index >= 0 else ""), caption
                assert mention.size in ("", words.SIZES[group.size]), caption
                ground = words.GROUNDS[content.background.ground]
                said[mention.verb] += 1
                if mention.verb:
                    assert flies == (mention.verb in AIRBORNE), caption
                if mention.verb in ("swimming", "floating", "sailing", "anchored"):
                    assert ground == "water", caption
                    assert mention.verb == "floating" or (kind.name == "sailboat") == (mention.verb != "swimming")
                if mention.verb == "driving":
                    assert ground == "road", caption
                    assert kind.habitat == "land", caption
                if mention.verb == "lying":
                    assert kind.name not in UPRIGHT, caption
            said["counted" if mention.count else "uncounted"] += 1
            said["coloured"] += bool(mention.colour)
            said["sized"] += bool(mention.size)
    assert 0.01 < said["no object"] / COUNT < 0.06
    assert said["uncounted"] < 0.1 * said["counted"]
    assert all(said[verb] for verb in (*AIRBORNE, *OTHER_VERBS.split("|")))
    assert min(said["coloured"], said["sized"]) > COUNT / 10


def read_side(caption: str) -> tuple[bool, bool] | None:
    """Whether the first-named of two groups is said to be left of the other, and whether a side is said at all."""
    text, mentions = blank(caption), read_mentions(caption)
    if len(mentions) != 2 or "from left to right" in text:
        return None
    for match in re.finditer(r"\b(left|right)\b( side)?( of)?( (?:it|them)\b)?", text):
        of_first = bool(match[4]) or bool(re.search(r"\b(its|their) $", text[: match.start()]))
        names_first = match.start() < mentions[1].start and not of_first
        return (match[1] == "left") == names_first, True
    return None


def test_a_side_is_that_of_the_picture(everyday: list[Described]) -> None:
    said: Counter[str] = Counter()
    for content, _, caption in everyday:
        side = read_side(caption)
        if side is None:
            continue
        assert content.relation == words.LEFT_OF, caption
        kinds = read_mentions(caption)[0].kinds
        if not kinds & {content.groups[0].object} or not kinds & {content.groups[1].object}:
            assert (content.groups[0].object in kinds) == side[0], caption
            said["left" if side[0] else "right"] += 1
    assert min(said["left"], said["right"]) > 50


def test_depth_and_height_are_those_of_the_picture(everyday: list[Described]) -> None:
    said: Counter[str] = Counter()
    forms = (
        (r"in front of (it|them)\b", words.IN_FRONT_OF, False),
        (r"in front of", words.IN_FRONT_OF, True),
        (r"behind (it|them)\b", words.IN_FRONT_OF, True),
        (r"(?<!rainbow )behind [a-z]", words.IN_FRONT_OF, False),
        (r"\b(above|over) (it|them)\b", words.ABOVE, False),
        (r"\b(under|below) (it|them)\b", words.ABOVE, True),
        (r"\bunderneath\b", words.ABOVE, False),
    )
    for content, _, caption in everyday:
        mentions = read_mentions(caption)
        if len(mentions) != 2:
            continue
        for pattern, relation, is_first in forms:
            if re.search(pattern, caption.lower()):
                assert content.relation == relation, caption
                assert (content.groups[0].object in mentions[0].kinds) == is_first, caption
                said[pattern] += 1
                break
    assert min(said[pattern] for pattern, _, _ in forms) > 3


def test_three_groups_in_a_row_are_in_that_order(everyday: list[Described]) -> None:
    rows = 0
    for content, facts, caption in everyday:
        mentions = read_mentions(caption)
        match = re.search(r"between|in the middle of|on (its|their) left|in the middle and", blank(caption))
        if len(mentions) != 3 or not match or "in the middle of the" in caption.lower():
            continue
        assert facts.in_order, caption
        middle = mentions[1] if match[0] == "in the middle and" else mentions[0]
        assert content.groups[1].object in middle.kinds, caption
        rows += 1
    assert rows > 10


GROUNDS = (
    (
        "grass",
        r"grass|lawn|(?<!flower )garden|countryside|green field|green meadow|on a meadow|in a meadow(?! with)|nature",
    ),
    ("sand", r"\bsand|beach|seaside|seashore|desert|coast"),
    ("snow", r"winter|snowy (ground|field|landscape)|(in|on) (the |deep |fresh |white )?snow\b"),
    ("water", r"\b(sea|lake|water|ocean|waves)\b"),
    ("road", r"road\b|street|asphalt|city|town"),
    ("flowers", r"meadow with flowers|(flower|flowery) (meadow|field|garden)|of flowers|wild flowers|in spring"),
    ("leaves", r"leaves|\bpark\b|autumn|in the fall\b"),
    ("rock", r"\brock(s|y)?\b|\bstone|stony|mountain|hills"),
)
SKIES = (
    (r"\bnight\b|midnight|\bdark\b|\bstar|moon", {3}),
    (r"sunset|dusk|evening|sun goes down|sun is setting", {2}),
    (r"morning|dawn|sunrise|sun comes up", {1}),
    (r"noon|daylight|daytime|by day|during the day|middle of the day|nice day", {0}),
    (r"sunny|sunshine|in the sun\b|blue sky|bright day", {0, 1}),
)
WEATHERS = (
    (r"\brain(s|y|ing)?\b", {3}),
    (r"snowing|snows\b|snowfall|snowstorm|falling snow|snow is falling|snowy (day|night)", {4}),
    (r"\bfog|\bmist", {5}),
    (r"\bstorm|stormy|thunder|lightning", {6}),
    (r"bad weather", {3, 6}),
    (r"rainbow", {7}),
    (r"overcast|gr[ea]y (weather|clouds|sky)", {2}),
    (r"(?<!grey )(?<!gray )\bclouds|cloudy", {1}),
    (r"\bclear|good weather|fine weather|sunny|sunshine|in the sun\b|bright day|blue sky", {0}),
)


def test_ground_sky_and_weather_are_those_of_the_picture(everyday: list[Described]) -> None:
    said: Counter[str] = Counter()
    for content, facts, caption in everyday:
        background, text = content.background, caption.lower()
        for ground, pattern in GROUNDS:
            if re.search(pattern, text):
                assert words.GROUNDS[background.ground] == ground, caption
                said[pattern] += 1
        for pattern, skies in SKIES:
            if re.search(pattern, text):
                assert background.sky in skies, caption
                said[pattern] += 1
        for pattern, weathers in WEATHERS:
            if re.search(pattern, text):
                assert background.weather in weathers, caption
                said[pattern] += 1
        if any(f"{place} " in f"{text} " for places in everyday_phrases.PLACES.values() for place in places):
            assert not any(facts.flies), caption
        if re.search(r"(?<!rainbow )in the (sky|air)\b", text) and "clouds in" not in text:
            assert any(facts.flies), caption
            said["in the sky"] += 1
        if re.search(r"star|moon|nice day|beautiful morning|lovely evening", text):
            assert background.weather in (0, 1, 7), caption
        if "white clouds" in text:
            assert background.sky in (0, 1), caption
    assert len(said) == len(GROUNDS) + len(SKIES) + len(WEATHERS) + 1
    assert min(said.values()) > 5


def test_no_caption_has_a_held_out_form_or_a_word_of_no_vocabulary(everyday: list[Described]) -> None:
    known = set(caption_words())
    for _, _, caption in everyday:
        assert not re.search(r"look at|\bi see|you can find", caption.lower()), caption
        assert set(re.findall(r"\w+|[^\w\s]+", caption.lower())) <= known, caption
        assert not re.search(r"\s\s|\s[,.!?]|,,|\{|^\W|,$", caption), caption
    assert len({caption for _, _, caption in everyday}) > 0.97 * COUNT


def test_every_caption_fits_the_tokens_of_the_training(everyday: list[Described]) -> None:
    captions = [describe(index, 1.0, unknown=1.0).caption for index in range(COUNT)]
    _, mask = tokenize(build_tokenizer(caption_words(), LENGTH), captions)
    assert mask.sum(1).max() < LENGTH


def test_everyday_is_how_often_a_caption_is_one_and_the_others_are_the_plain_ones() -> None:
    plain, mixed, all_everyday = ([describe(index, rate).caption for index in range(600)] for rate in (0.0, 0.4, 1.0))
    share = sum(a == b for a, b in zip(mixed, all_everyday, strict=True)) / 600
    assert 0.34 < share < 0.46
    assert all(caption in pair for caption, *pair in zip(mixed, plain, all_everyday, strict=True))


def test_unknown_words_stand_between_the_words_of_some_captions() -> None:
    known = [describe(index, 0.4).caption for index in range(600)]
    some = [describe(index, 0.4, unknown=0.25).caption for index in range(600)]
    assert 0.2 < sum(UNKNOWN in caption for caption in some) / 600 < 0.3
    assert {caption.count(UNKNOWN) for caption in some} == {0, 1, 2}
    positions = set()
    for before, after in zip(known, some, strict=True):
        assert re.sub(r"\s*\[UNK\]", "", after).strip() == before
        if UNKNOWN in after:
            positions.add(round(4 * after.index(UNKNOWN) / len(after)))
    assert positions == {0, 1, 2, 3, 4}


def test_the_data_set_takes_both_rates() -> None:
    plain = scenes_128(batch=20).batches[0]
    assert all(texts == (caption,) for texts, caption in zip(plain.captions, plain.caption, strict=True))
    batch = scenes_128(batch=20, everyday=1.0, unknown=1.0).batches[0]
    assert all(UNKNOWN in caption for caption in batch.caption)
    assert (batch.image == plain.image).all()
    assert scenes_128(batch=2, everyday=1.0).words == scenes_128().words


def test_a_scene_has_captions_that_differ_and_the_first_does_not_depend_on_their_number() -> None:
    single, several = (scenes_128(batch=20, everyday=0.4, captions=count).batches[0] for count in (1, 8))
    assert several.caption == single.caption == tuple(texts[0] for texts in several.captions)
    assert (several.image == single.image).all()
    assert all(len(texts) == 8 for texts in several.captions)
    assert sum(len(set(texts)) for texts in several.captions) > 0.9 * 8 * 20
    assert len({text.lower() for texts in several.captions for text in texts}) > 0.8 * 8 * 20

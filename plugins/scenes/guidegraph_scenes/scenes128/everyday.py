"""Captions as people write them: wishes, questions and thanks, "my happy dog", "and behind it there is a car".

They are as true of the picture as the ones in `captions`. Some words name nothing visible, so that a
text encoder learns to pass over them; `add_unknown_words` does the same for words of no vocabulary.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from guidegraph_runtime.text.chunks import UNKNOWN
from guidegraph_scenes.scenes128 import everyday_phrases as phrases
from guidegraph_scenes.scenes128.background import GREY_SKY
from guidegraph_scenes.scenes128.captions import (
    RELATION_NAMES,
    LayoutFacts,
    Wording,
    choose_colour_word,
    place_phrases,
    tidy,
    with_article,
    write_circumstances,
)
from guidegraph_scenes.scenes128.content import Background, Content, Group
from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.phrases import NUMBERS, PAIR_WORDS, SCENERY, SIZE_WORDS
from guidegraph_scenes.scenes128.vocabulary import (
    GROUNDS,
    LEFT_OF,
    NAMES,
    NORMAL,
    OBJECTS,
    SKIES,
    WEATHERS,
)

ANIMALS = frozenset(NAMES[: NAMES.index("bee") + 1])
VEHICLES = frozenset({"airplane", "helicopter", "rocket", "car", "bus", "truck", "train", "bicycle"})
PLANTS = frozenset({"palm tree", "pine tree", "cactus", "sunflower", "tulip", "mushroom"})
FOOD = frozenset({"pumpkin", "apple", "banana", "strawberry", "pineapple", "cake"})
BUILDINGS = frozenset({"house", "castle"})
UPRIGHT = frozenset({"pineapple", "cake", "balloon", "chair", "umbrella", "robot", "snowman", "clock", "teapot"})
"""Objects whose artworks stand upright."""

FORM_WEIGHTS = {
    "bare": 0.2,
    "wish": 0.23,
    "question": 0.15,
    "title": 0.14,
    "statement": 0.13,
    "scenery": 0.11,
    "empty": 0.04,
}
"""How often a caption names the objects alone, begins with a wish, a question or a title, is a whole sentence, begins
with a noun for the ground, or names the background alone."""
OPENERS = {"wish": phrases.REQUESTS, "question": phrases.QUESTIONS, "title": phrases.TITLES}
CLOSER, DETERMINER, ADJECTIVE, VERB, RELATIVE, COUNT_PREFIX, UNCOUNTED = 0.2, 0.22, 0.2, 0.2, 0.25, 0.04, 0.1
"""How often a caption has each of these details."""
MORE = 0.4
"""How often a noun, a place or a time is one of everyday English if both kinds exist."""


class Subject(NamedTuple):
    """The objects of a caption in words; whether the first is a single one, and whether a plural verb follows."""

    text: str
    is_singular: bool
    is_plural: bool


def write_everyday_caption(content: Content, facts: LayoutFacts, draws: Draws, wording: Wording) -> str:
    """Write the caption of a scene in everyday English."""
    form = tuple(FORM_WEIGHTS)[draws.pick_weighted(tuple(FORM_WEIGHTS.values()))]
    subject = write_subject(content, facts, draws, wording, verb=0 if form == "statement" else VERB)
    place = choose_place(content, facts, draws) if draws.chance(wording.place) else ""
    circumstances = write_everyday_circumstances(content.background, draws, wording)
    details = [place, circumstances] if draws.chance(0.75) else [circumstances, place]
    if form == "statement":
        parts = write_statement(content, facts, subject, details, draws)
    elif form in ("scenery", "empty") and (form == "empty" or draws.chance(wording.place)):
        parts = write_scenery(subject if form == "scenery" else None, content.background, circumstances, draws)
    else:
        opener = draws.choose(OPENERS.get(form, ("",))).format(**{"is": "is" if subject.is_singular else "are"})
        parts = [opener, subject.text, *details]
        if opener and circumstances and draws.chance(0.12):
            parts = [f"{circumstances},", opener, subject.text, place]
    if draws.chance(CLOSER):
        parts.append(draws.choose(phrases.CLOSERS))
    return punctuate(" ".join(parts), "?" if form == "question" and draws.chance(0.5) else "", draws)


def write_scenery(subject: Subject | None, background: Background, circumstances: str, draws: Draws) -> list[str]:
    """A noun for the ground, with the objects that are there or without any."""
    noun = draws.choose(SCENERY[GROUNDS[background.ground]])
    opener = draws.choose(phrases.REQUESTS) if draws.chance(0.5) else ""
    article = draws.choose((with_article(noun), f"the {noun}", noun))
    if subject is None:
        return [opener, article, circumstances]
    link = "with" if draws.chance(0.6) else f"where there {'is' if subject.is_singular else 'are'}"
    return [opener, article, circumstances, link, subject.text]


def punctuate(text: str, ending: str, draws: Draws) -> str:
    """The caption without gaps; some captions begin with a capital letter, and some end with a full stop."""
    caption = tidy(text)
    if ending and not caption.endswith("!"):
        caption += ending
    elif caption[-1].isalpha() and draws.chance(1 / 6):
        caption += "."
    return f"{caption[0].upper()}{caption[1:]}" if draws.chance(0.25) else caption


def write_statement(
    content: Content, facts: LayoutFacts, subject: Subject, details: list[str], draws: Draws
) -> list[str]:
    """A whole sentence, "my dog is sitting on the beach", or one that begins with "there is"."""
    verbs = [
        set(list_verbs(g, flies, content.background)) for g, flies in zip(content.groups, facts.flies, strict=True)
    ]
    shared = sorted(set.intersection(*verbs))
    if shared and (len(content.groups) == 1 or subject.is_plural):
        return [subject.text, "are" if subject.is_plural else "is", draws.choose(shared), *details]
    return ["there", "is" if subject.is_singular else "are", subject.text, *details]


def choose_place(content: Content, facts: LayoutFacts, draws: Draws) -> str:
    """A phrase for the ground that is true of all objects, or one for the open air."""
    ground = GROUNDS[content.background.ground]
    options = place_phrases(ground, facts)
    if draws.chance(MORE):
        options = phrases.SCENERY[ground] + phrases.OUTDOORS[:1]
        if all(facts.flies):
            options = phrases.IN_THE_SKY
        elif not any(facts.flies):
            options = phrases.PLACES[ground] * 2 + phrases.SCENERY[ground] + phrases.OUTDOORS
    return draws.choose(options)


def write_everyday_circumstances(background: Background, draws: Draws, wording: Wording) -> str:
    """The time of day and the weather, in plain or in everyday words, or nothing."""
    if not draws.chance(MORE):
        return write_circumstances(background, draws, wording)
    sky, weather = SKIES[background.sky], WEATHERS[background.weather]
    times, conditions = phrases.TIMES[sky], phrases.WEATHER[weather]
    if weather not in GREY_SKY:
        times += phrases.FINE_TIMES[sky]
    if sky in ("day", "morning") and weather == "clear":
        conditions = phrases.SUNNY
    elif sky in ("day", "morning") and weather == "clouds":
        conditions += phrases.WHITE_CLOUDS
    has_time, has_weather = draws.chance(wording.time), draws.chance(0.7 * wording.weather)
    texts = [draws.choose(options) for options, is_named in ((times, has_time), (conditions, has_weather)) if is_named]
    return " ".join(texts if draws.chance(0.5) else texts[::-1])


def write_subject(content: Content, facts: LayoutFacts, draws: Draws, wording: Wording, verb: float) -> Subject:
    """The objects of a scene and how they lie to each other. verb: how often a group has one."""
    form = choose_form(content.relation, facts.is_near, draws, wording) if len(content.groups) == 2 else ""
    if re.search(r"(fly|hid|hover)ing", form):
        verb = 0
    names = [
        write_everyday_group(group, draws, wording, list_verbs(group, flies, content.background), verb)
        for group, flies in zip(content.groups, facts.flies, strict=True)
    ]
    singular = [group.number == 1 for group in content.groups]
    if len(names) == 1:
        return Subject(names[0], singular[0], not singular[0])
    if len(names) == 2:
        is_related = any(form in forms for forms in phrases.PAIRS.values())
        if not is_related and draws.chance(0.5):
            names, singular = names[::-1], singular[::-1]
        return join_pair(form, names, singular)
    if facts.in_order and draws.chance(0.3 * wording.relation):
        return join_row(names, singular, draws)
    order = draws.shuffle(range(len(names)))
    ordered = [names[i] for i in order]
    start, end = draws.choose(phrases.LISTS)
    text = start.format(a=", ".join(ordered[:-2]), b=ordered[-2]) + end.format(c=ordered[-1])
    return Subject(text, singular[order[0]], True)


def join_row(names: list[str], singular: list[bool], draws: Draws) -> Subject:
    """Three or more groups in their order from left to right."""
    if len(names) > 3 or draws.chance(0.4):
        return Subject(f"{', '.join(names[:-1])} and {names[-1]} from left to right", singular[0], False)
    form = draws.choose(phrases.ROWS)
    first = 1 if form.startswith("{b}") else 0
    text = form.format(a=names[0], b=names[1], c=names[2], its="its" if singular[1] else "their")
    return Subject(text, singular[first], False)


def choose_form(relation: int, is_near: bool, draws: Draws, wording: Wording) -> str:
    """How to name two groups: with their relation, as neighbours if they are near, or one after the other."""
    if relation in RELATION_NAMES and draws.chance(wording.relation):
        return draws.choose(phrases.PAIRS[RELATION_NAMES[relation]])
    if relation == LEFT_OF and is_near and draws.chance(0.4):
        return draws.choose(phrases.NEIGHBOURS)
    return phrases.COMPANIONS[0] if draws.chance(0.4) else draws.choose(phrases.COMPANIONS)


def join_pair(form: str, names: list[str], singular: list[bool]) -> Subject:
    """Two groups in a form; its pronouns stand for the first in the text, its verb agrees with the other."""
    first = 0 if form.index("{a}") < form.index("{b}") else 1
    is_singular = singular[first]
    pronouns = {"it": "it", "its": "its"} if is_singular else {"it": "them", "its": "their"}
    verb = "is" if singular[1 - first] else "are"
    text = form.format(a=names[0], b=names[1], **{"is": verb}, **pronouns)
    return Subject(text, is_singular, form == phrases.COMPANIONS[0])


def write_everyday_group(group: Group, draws: Draws, wording: Wording, verbs: tuple[str, ...], verb: float) -> str:
    """Equal objects with a determiner or their number, words that name nothing to be seen, and one of the verbs."""
    kind, is_plural = OBJECTS[group.object], group.number > 1
    nouns = ((kind.name, kind.plural), *kind.synonyms)
    has_synonym = draws.chance(wording.synonym)
    noun = (draws.choose(nouns + phrases.NOUNS.get(kind.name, ())) if has_synonym else nouns[0])[is_plural]
    adjectives = [draws.choose(list_adjectives(kind.name))] if draws.chance(ADJECTIVE) else []
    if group.size != NORMAL and draws.chance(wording.size):
        adjectives.append(draws.choose(SIZE_WORDS[group.size] + phrases.SIZES[group.size]))
    if adjectives and " " not in adjectives[0] and draws.chance(0.1):
        adjectives[0] = f"{draws.choose(phrases.INTENSIFIERS)} {adjectives[0]}"
    colour = choose_colour_word(group, draws, wording)
    relative = draws.choose(phrases.RELATIVES).format(**{"is": "are" if is_plural else "is"})
    after = ""
    if colour and draws.chance(0.12):
        after = f" {relative} {colour}"
    elif colour:
        adjectives.append(f"{colour} {draws.choose(phrases.COLOURED)}" if draws.chance(0.04) else colour)
    if not after and draws.chance(verb):
        action = draws.choose(verbs)
        after = f" {relative} {action}" if draws.chance(RELATIVE) else f" {action}"
    return write_determiner(group.number, " ".join([*adjectives, noun]) + after, draws)


def write_determiner(count: int, phrase: str, draws: Draws) -> str:
    """A noun phrase after its article, determiner or number, or at times without any."""
    kind = draws.pick_weighted((COUNT_PREFIX, UNCOUNTED, DETERMINER, 1 - COUNT_PREFIX - UNCOUNTED - DETERMINER))
    number = "" if count == 1 else f"{draws.choose(NUMBERS[count][:1] * 3 + NUMBERS[count][1:])} "
    if kind == 0:
        return f"{draws.choose(phrases.COUNT_PREFIXES[min(count, 2)])} {number}{phrase}"
    if kind == 1:
        return f"{draws.choose(phrases.UNCOUNTED[count])} {phrase}"
    if kind == 2:
        return f"{draws.choose(phrases.PLURAL_DETERMINERS if number else phrases.DETERMINERS)} {number}{phrase}"
    if count == 2 and draws.chance(0.1):
        return f"{draws.choose(PAIR_WORDS)} {phrase}"
    return f"{number}{phrase}" if number else with_article(phrase)


def list_adjectives(name: str) -> tuple[str, ...]:
    """The adjectives without visible meaning that fit an object."""
    for names, adjectives in (
        (ANIMALS, phrases.ADJECTIVES_OF_ANIMALS),
        (FOOD, phrases.ADJECTIVES_OF_FOOD),
        (VEHICLES, phrases.ADJECTIVES_OF_VEHICLES),
    ):
        if name in names:
            return phrases.ADJECTIVES + adjectives
    return phrases.ADJECTIVES


def list_verbs(group: Group, flies: bool, background: Background) -> tuple[str, ...]:
    """The verbs that a picture of the group does not contradict."""
    kind, ground = OBJECTS[group.object], GROUNDS[background.ground]
    if flies:
        return phrases.IN_AIR
    if kind.name == "sailboat" and ground == "water":
        return phrases.SAILING
    if kind.name in ANIMALS:
        return phrases.IN_WATER if ground == "water" and kind.habitat != "air" else phrases.ON_LAND
    if kind.name in VEHICLES:
        return phrases.DRIVING if ground == "road" and kind.habitat != "air" else phrases.PARKED
    if kind.name in PLANTS:
        return phrases.GROWING if ground in ("grass", "sand", "flowers", "leaves") else phrases.STANDING
    if kind.name in UPRIGHT:
        return phrases.UPRIGHT
    return phrases.STANDING if kind.name in BUILDINGS else phrases.LYING


def add_unknown_words(caption: str, draws: Draws) -> str:
    """The caption with one or two words of no vocabulary, written [UNK], between its words."""
    for _ in range(1 + draws.chance(0.3)):
        words = caption.split(" ")
        position = draws.integer(0, len(words))
        if position < len(words) and not re.match(r"\w", words[position]):
            position = 0
        caption = " ".join([*words[:position], UNKNOWN, *words[position:]])
    return caption

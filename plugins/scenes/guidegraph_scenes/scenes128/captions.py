"""Captions of scenes from a grammar. A caption says less than there is to see, but nothing that is not there."""

from __future__ import annotations

import re
from typing import NamedTuple

from guidegraph_scenes.scenes128 import phrases
from guidegraph_scenes.scenes128.content import Background, Content, Group, Split
from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.vocabulary import (
    ABOVE,
    COLOURS,
    GROUNDS,
    IN_FRONT_OF,
    LEFT_OF,
    NATURAL,
    NORMAL,
    OBJECTS,
    SKIES,
    WEATHERS,
    natural_colour,
)

HELD_OUT_FORM_RATE = 0.5
"""How often a caption of the held-out split has a sentence form of no training caption."""
PARTIAL = 0.4
"""How often a caption leaves out the place, unless a data set says otherwise."""


class Wording(NamedTuple):
    """How often a caption names a detail, and how often it has a sentence form that training never shows.

    natural: the colour of an object in its artwork's colours. synonym: other words for objects, colours and numbers.
    everyday: captions in everyday English. unknown: captions with words of no vocabulary.
    """

    place: float
    time: float
    weather: float
    colour: float = 0.95
    natural: float = 0.2
    size: float = 0.85
    relation: float = 0.75
    synonym: float = 0.25
    held_out_form: float = 0.0
    everyday: float = 0.0
    unknown: float = 0.0


def choose_wording(split: Split, partial: float = PARTIAL, everyday: float = 0.0, unknown: float = 0.0) -> Wording:
    """The wording of a split's captions; partial: how often they leave out the place, and with 0 any detail."""
    wording = Wording(
        place=1 - partial,
        time=(1 - partial) ** 1.5,
        weather=(1 - partial) ** 1.25,
        held_out_form=HELD_OUT_FORM_RATE if split == "held_out" else 0.0,
        everyday=everyday,
        unknown=unknown,
    )
    return wording if partial else wording._replace(colour=1, size=1, relation=1)


class LayoutFacts(NamedTuple):
    """Facts of a layout that captions use: which groups fly, whether they are in order from left to right, and near.

    is_near: whether the first two groups are next to each other.
    """

    flies: tuple[bool, ...]
    in_order: bool
    is_near: bool


RELATION_NAMES = {LEFT_OF: "beside", ABOVE: "above", IN_FRONT_OF: "in front"}


def write_caption(content: Content, facts: LayoutFacts, draws: Draws, wording: Wording) -> str:
    """Write the caption of a scene."""
    subject, is_singular = write_subject(content, facts, draws, wording)
    ground = GROUNDS[content.background.ground]
    has_place = draws.chance(wording.place)
    place = draws.choose(place_phrases(ground, facts)) if has_place else ""
    noun = draws.choose(phrases.SCENERY[ground])
    circumstances = write_circumstances(content.background, draws, wording)
    if draws.chance(wording.held_out_form):
        form = draws.choose(phrases.HELD_OUT_FORMS)
    else:
        number = draws.pick_weighted(phrases.FORM_WEIGHTS)
        form = phrases.FORMS[phrases.PLAIN if number == phrases.SCENERY_FORM and not has_place else number]
    verb = "is" if is_singular else "are"
    caption = form.format(s=subject, p=place, w=circumstances, n=with_article(noun), **{"is": verb})
    return finish(caption, draws)


def finish(caption: str, draws: Draws) -> str:
    """Remove the gaps that details left which are not named; one caption in six is written as a sentence."""
    caption = tidy(caption)
    return f"{caption[0].upper()}{caption[1:]}." if draws.chance(1 / 6) else caption


def tidy(caption: str) -> str:
    """A caption without repeated spaces and commas, or such before a mark or at an end."""
    caption = re.sub(r"\s+", " ", caption).strip()
    caption = re.sub(r"\s+([,!])", r"\1", caption)
    return re.sub(r"(,\s*)+", ", ", caption).strip(" ,")


def place_phrases(ground: str, facts: LayoutFacts) -> tuple[str, ...]:
    """Phrases for the ground that are true of all objects, be they on it or above it."""
    if all(facts.flies):
        return phrases.OVER_GROUND[ground]
    return (
        phrases.IN_SCENERY[ground] if any(facts.flies) else phrases.ON_GROUND[ground] + phrases.IN_SCENERY[ground][:1]
    )


def write_circumstances(background: Background, draws: Draws, wording: Wording) -> str:
    """The time of day and the weather, both, one or none of them."""
    sky, weather = SKIES[background.sky], WEATHERS[background.weather]
    has_time, has_weather = draws.chance(wording.time), draws.chance(wording.weather)
    time, condition = draws.choose(phrases.TIMES[sky]), draws.choose(phrases.WEATHER[weather])
    if has_time and has_weather:
        adjective = phrases.WEATHER_ADJECTIVES.get(weather)
        if adjective and draws.chance(0.5):
            return f"on {with_article(adjective)} {phrases.TIME_NOUNS[sky]}"
        return f"{time} {condition}" if draws.chance(0.5) else f"{condition} {time}"
    return time if has_time else condition if has_weather else ""


def write_subject(content: Content, facts: LayoutFacts, draws: Draws, wording: Wording) -> tuple[str, bool]:
    """The objects of a scene and how they lie to each other, and whether the first that is named is a single one."""
    names = [write_group(group, draws, wording) for group in content.groups]
    singular = [group.number == 1 for group in content.groups]
    if len(names) == 1:
        return names[0], singular[0]
    if len(names) == 2:
        form = choose_pair_form(content.relation, facts.is_near, draws, wording)
        if form not in phrases.RELATION_FORMS.get(RELATION_NAMES.get(content.relation, ""), ()) and draws.chance(0.5):
            names, singular = names[::-1], singular[::-1]
        return form.format(a=names[0], b=names[1]), singular[form.index("{b}") < form.index("{a}")]
    if facts.in_order and draws.chance(0.4 * wording.relation):
        return f"{join_names(names)} from left to right", singular[0]
    order = draws.shuffle(range(len(names)))
    return join_names([names[i] for i in order]), singular[order[0]]


def choose_pair_form(relation: int, is_near: bool, draws: Draws, wording: Wording) -> str:
    """How to name two groups: with their relation, as neighbours if they are near, or one after the other."""
    if relation in RELATION_NAMES and draws.chance(wording.relation):
        return draws.choose(phrases.RELATION_FORMS[RELATION_NAMES[relation]])
    forms = phrases.UNRELATED_FORMS + (phrases.BESIDE_FORMS if relation == LEFT_OF and is_near else ())
    return forms[0] if draws.chance(0.6) else draws.choose(forms)


def join_names(names: list[str]) -> str:
    """A list of names in one phrase."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def write_group(group: Group, draws: Draws, wording: Wording) -> str:
    """Equal objects with their number, and with their size and colour where those are named."""
    kind = OBJECTS[group.object]
    pairs = ((kind.name, kind.plural), *kind.synonyms)
    noun = (draws.choose(pairs) if draws.chance(wording.synonym) else pairs[0])[group.number > 1]
    adjectives = []
    if group.size != NORMAL and draws.chance(wording.size):
        adjectives.append(draws.choose(phrases.SIZE_WORDS[group.size]))
    word = choose_colour_word(group, draws, wording)
    after = ""
    if word:
        if draws.chance(0.05 * (wording.synonym > 0)):
            after = f" that {'is' if group.number == 1 else 'are'} {word}"
        else:
            adjectives.append(word)
    phrase = " ".join([*adjectives, noun]) + after
    return write_number(group.number, phrase, draws, wording)


def choose_colour_word(group: Group, draws: Draws, wording: Wording) -> str:
    """A word for the colour of a group, or an empty text to leave it out."""
    colour = group.colour if group.colour != NATURAL else natural_colour(group.object, group.artwork)
    says_colour = draws.chance(wording.natural if group.colour == NATURAL else wording.colour)
    if colour == NATURAL or not says_colour:
        return ""
    words = phrases.COLOUR_WORDS[COLOURS[colour]]
    return draws.choose(words) if draws.chance(wording.synonym) else words[0]


def write_number(count: int, phrase: str, draws: Draws, wording: Wording) -> str:
    """A noun phrase after its article or number."""
    has_variant, choice = draws.chance(0.5 * wording.synonym), draws.uniform()
    if count == 1:
        return f"one {phrase}" if has_variant and choice < 0.4 else with_article(phrase)
    if count == 2 and has_variant and choice < 0.6:
        return f"{draws.choose(phrases.PAIR_WORDS)} {phrase}"
    return f"{phrases.NUMBERS[count][has_variant]} {phrase}"


def with_article(phrase: str) -> str:
    """A phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeio' or phrase.startswith('umb') else 'a'} {phrase}"

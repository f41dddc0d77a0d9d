"""The phrases of captions: for grounds, times of day, weathers, numbers and relations, and the sentence forms."""

from __future__ import annotations

import re

from guidegraph_runtime.pictures.scene_objects import COLOUR_WORDS as COLOUR_WORDS
from guidegraph_scenes.scenes128 import everyday_phrases
from guidegraph_scenes.scenes128.vocabulary import COLOURS, LARGE, OBJECTS, SMALL

ON_GROUND = {
    "grass": ("on grass", "on the grass", "on green grass", "on a lawn"),
    "sand": ("on sand", "on the sand", "on a beach", "on the beach"),
    "snow": ("on snow", "on the snow", "on white snow", "on snowy ground"),
    "water": ("on water", "on the water", "on the sea", "on a lake"),
    "road": ("on a road", "on the road", "on a street", "on the street"),
    "flowers": ("on a flower meadow", "among flowers", "between flowers", "on a flowery meadow"),
    "leaves": ("on autumn leaves", "on fallen leaves", "on dry leaves", "on a bed of leaves"),
    "rock": ("on rocks", "on rocky ground", "on stones", "on stony ground"),
}
"""Where something stands."""
OVER_GROUND = {
    "grass": ("over grass", "over the grass", "above a lawn"),
    "sand": ("over sand", "over the sand", "above a beach"),
    "snow": ("over snow", "over the snow", "above snowy ground"),
    "water": ("over water", "over the water", "above the sea"),
    "road": ("over a road", "over the street", "above a street"),
    "flowers": ("over a flower meadow", "over flowers", "above flowers"),
    "leaves": ("over autumn leaves", "over fallen leaves", "above fallen leaves"),
    "rock": ("over rocks", "over rocky ground", "above stony ground"),
}
"""Where something flies."""
IN_SCENERY = {
    "grass": ("in a grassy field", "in a green field"),
    "sand": ("at the beach", "at a beach"),
    "snow": ("in a snowy landscape", "in a snowy field"),
    "water": ("at sea", "at the sea"),
    "road": ("in the street", "in a city street"),
    "flowers": ("in a flower meadow", "in a meadow with flowers"),
    "leaves": ("in an autumn park", "in autumn"),
    "rock": ("in a rocky landscape", "in the mountains"),
}
"""Where something is that may stand or fly."""
SCENERY = {
    "grass": ("grassy field", "green field"),
    "sand": ("beach", "sandy beach"),
    "snow": ("snowy landscape", "snowy field"),
    "water": ("lake", "sea"),
    "road": ("street", "city street"),
    "flowers": ("flower meadow", "meadow with flowers"),
    "leaves": ("park in autumn", "field of autumn leaves"),
    "rock": ("rocky landscape", "stony field"),
}
"""Nouns for a ground."""

TIMES = {
    "day": ("by day", "during the day", "in the daytime"),
    "morning": ("in the morning", "at dawn", "at sunrise"),
    "sunset": ("at sunset", "in the evening", "at dusk"),
    "night": ("at night", "during the night", "under a night sky"),
}
WEATHER = {
    "clear": ("under a clear sky", "in clear weather"),
    "clouds": ("under a cloudy sky", "with clouds in the sky"),
    "overcast": ("under a grey sky", "under an overcast sky"),
    "rain": ("in the rain", "in rainy weather", "while it rains"),
    "snowfall": ("in falling snow", "while it snows", "in a snowfall"),
    "fog": ("in the fog", "in foggy weather", "in the mist"),
    "storm": ("in a thunderstorm", "in a storm with lightning", "in stormy weather"),
    "rainbow": ("under a rainbow", "with a rainbow in the sky"),
}
WEATHER_ADJECTIVES = {
    "clear": "clear",
    "clouds": "cloudy",
    "overcast": "overcast",
    "rain": "rainy",
    "snowfall": "snowy",
    "fog": "foggy",
    "storm": "stormy",
}
TIME_NOUNS = {"day": "day", "morning": "morning", "sunset": "evening", "night": "night"}

NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
PAIR_WORDS = ("a pair of", "a couple of")
SIZE_WORDS = {SMALL: ("small", "little", "tiny"), LARGE: ("large", "big", "huge")}
RELATION_FORMS = {
    "beside": (
        "{a} to the left of {b}",
        "{a} left of {b}",
        "{a} on the left of {b}",
        "{b} to the right of {a}",
        "{b} right of {a}",
        "{b} on the right of {a}",
        "{a} on the left and {b} on the right",
    ),
    "above": (
        "{a} above {b}",
        "{a} over {b}",
        "{a} flying over {b}",
        "{b} below {a}",
        "{b} under {a}",
        "{b} beneath {a}",
    ),
    "in front": ("{a} in front of {b}", "{b} behind {a}", "{b} partly hidden by {a}"),
}
"""How the first group a lies to the second, b."""
UNRELATED_FORMS = ("{a} and {b}", "{a} with {b}", "{a} together with {b}")
BESIDE_FORMS = ("{a} next to {b}", "{a} beside {b}")

FORMS = (
    "{s} {p} {w}",
    "{w}, {s} {p}",
    "{p}, {s} {w}",
    "there {is} {s} {p} {w}",
    "{w} {p} there {is} {s}",
    "a picture of {s} {p} {w}",
    "an image of {s} {p} {w}",
    "a drawing of {s} {p} {w}",
    "{s} can be seen {p} {w}",
    "{s}, {p}, {w}",
    "this picture shows {s} {p} {w}",
    "{n} {w} with {s}",
)
"""Sentence forms of the training scenes: s is the subject, p the place, w the time and the weather, n a noun for the
place."""
PLAIN, SCENERY_FORM = 0, len(FORMS) - 1
FORM_WEIGHTS = (0.36, 0.08, 0.06, 0.1, 0.04, 0.07, 0.04, 0.04, 0.05, 0.06, 0.04, 0.06)
HELD_OUT_FORMS = ("look at {s} {p} {w}", "i see {s} {p} {w}", "{p} you can find {s} {w}")
"""Sentence forms of no training scene. All their words occur in others, or are few and carry no meaning."""


def caption_words() -> tuple[str, ...]:
    """All words and punctuation marks that a caption may have, sorted."""
    groups = (ON_GROUND, OVER_GROUND, IN_SCENERY, SCENERY, TIMES, WEATHER, NUMBERS, SIZE_WORDS, COLOUR_WORDS)
    texts = [text for group in groups for phrases in group.values() for text in phrases]
    texts += [*WEATHER_ADJECTIVES.values(), *TIME_NOUNS.values(), *PAIR_WORDS, *COLOURS]
    for kind in OBJECTS:
        texts += [kind.name, kind.plural, *(word for synonym in kind.synonyms for word in synonym)]
    forms = [*FORMS, *HELD_OUT_FORMS, *UNRELATED_FORMS, *BESIDE_FORMS]
    forms += [form for group in RELATION_FORMS.values() for form in group]
    texts += [re.sub(r"\{\w+\}", "", form) for form in forms]
    texts.append("a an one is are and on that from left to right , .")
    texts += [re.sub(r"\{\w+\}", "", text) for text in everyday_phrases.phrase_texts()]
    return tuple(sorted(set(re.findall(r"\w+|[^\w\s]+", " ".join(texts).lower()))))

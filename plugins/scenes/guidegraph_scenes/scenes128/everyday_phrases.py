"""The phrases of everyday English, in addition to `phrases`: requests, determiners, verbs, adjectives, more nouns."""

from __future__ import annotations

from guidegraph_scenes.scenes128.vocabulary import LARGE, SMALL

REQUESTS = (
    "draw",
    "draw me",
    "please draw",
    "please draw me",
    "paint",
    "please paint",
    "paint me",
    "make",
    "please make",
    "make me",
    "create",
    "generate",
    "show me",
    "please show me",
    "give me",
    "imagine",
    "let me see",
    "let us see",
    "i want",
    "i want to see",
    "i need",
    "i would like",
    "i would like to see",
    "i'd like",
    "i'd like to see",
    "i'd love to see",
    "we want to see",
    "make a picture of",
    "make a picture with",
    "draw a picture of",
    "draw me a picture of",
    "paint a picture of",
    "create an image of",
    "generate an image of",
    "give me a picture of",
    "show me a picture of",
    "i want a picture of",
    "i would like a picture of",
)
"""Openers of a wish; an object follows."""
QUESTIONS = (
    "can you draw",
    "can you draw me",
    "can you please draw",
    "can you paint",
    "can you make",
    "can you make a picture of",
    "can you show me",
    "can we see",
    "can i have",
    "can i get a picture of",
    "may i have",
    "could you draw",
    "could you please draw",
    "could you paint",
    "could you show me",
    "could you make me",
    "could you make an image of",
    "could i have a picture of",
    "would you draw",
    "would you please draw",
    "will you draw me",
    "how about",
    "what about",
)
"""Openers of a question; an object follows."""
TITLES = (
    "photo of",
    "a photo of",
    "picture of",
    "image of",
    "drawing of",
    "a painting of",
    "painting of",
    "an illustration of",
    "a sketch of",
    "a cartoon of",
    "a scene with",
    "a picture with",
    "a picture that shows",
    "a picture showing",
    "a drawing showing",
    "in this picture there {is}",
    "in the picture we see",
    "we can see",
    "here {is}",
    "here we have",
    "there {is}",
)
"""Openers of a description; {is} agrees with the object that follows."""
CLOSERS = (
    "please",
    ", please",
    "thanks",
    ", thanks",
    "thank you",
    ", thank you",
    ", thank you very much",
    ", if you can",
    "for me",
    "for me please",
    "for my daughter",
    "for my son",
    "!",
)

DETERMINERS = ("the", "my", "this", "our", "your", "that", "his", "her")
PLURAL_DETERMINERS = ("the", "my", "these", "our", "your", "those", "his", "her")
"""Before a number: "these two cats"."""
UNCOUNTED = {
    1: ("",),
    2: ("some", ""),
    3: ("some", "several", "a few", "a group of", ""),
    4: ("some", "several", "a few", "a group of", ""),
}
"""In place of an article or a number; an empty text leaves them out: "cat on grass"."""
COUNT_PREFIXES = {1: ("a single", "just one", "only one"), 2: ("exactly", "just")}
"""Before a number, or in place of one: "exactly two cats", "a single cat"; the words for 2 serve for 3 and 4, too."""
INTENSIFIERS = ("very", "really")
COLOURED = ("coloured", "colored")

ADJECTIVES = (
    "nice",
    "beautiful",
    "lovely",
    "pretty",
    "wonderful",
    "great",
    "cool",
    "old",
    "new",
    "funny",
    "strange",
    "amazing",
    "perfect",
    "special",
    "favourite",
    "favorite",
)
"""Adjectives of anything that name nothing to be seen."""
ADJECTIVES_OF_ANIMALS = (
    "cute",
    "happy",
    "sweet",
    "friendly",
    "young",
    "hungry",
    "tired",
    "lonely",
    "brave",
    "clever",
    "wild",
    "curious",
    "adorable",
    "lazy",
)
ADJECTIVES_OF_FOOD = ("fresh", "tasty", "delicious", "sweet", "ripe")
ADJECTIVES_OF_VEHICLES = ("fast", "modern", "expensive")
SIZES = {SMALL: ("very small", "really small", "mini", "miniature"), LARGE: ("giant", "enormous", "very big")}

NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "cat": (("kitty", "kitties"),),
    "dog": (("doggy", "doggies"), ("pup", "pups")),
    "horse": (("foal", "foals"),),
    "airplane": (("jet", "jets"),),
    "palm tree": (("tree", "trees"),),
    "pine tree": (("tree", "trees"), ("pine", "pines"), ("christmas tree", "christmas trees")),
    "sunflower": (("flower", "flowers"),),
    "tulip": (("flower", "flowers"),),
    "house": (("home", "homes"), ("building", "buildings")),
    "car": (("vehicle", "vehicles"),),
    "sailboat": (("boat", "boats"), ("ship", "ships"), ("sailing ship", "sailing ships")),
    "umbrella": (("parasol", "parasols"),),
    "gift": (("gift box", "gift boxes"), ("birthday present", "birthday presents")),
}
"""More words for objects, among them more general ones that fit; not all name one object alone."""

PLACES = {
    "grass": ("in the grass", "on a meadow", "in the garden", "in a garden", "on the lawn", "on a green meadow"),
    "sand": ("in the sand", "on a sandy beach", "on the seashore", "on sandy ground"),
    "snow": ("in the snow", "in deep snow", "on a snowy field", "in fresh snow"),
    "water": ("in the water", "in the sea", "in a lake", "on the ocean", "in the ocean", "on the lake", "on the waves"),
    "road": ("in the road", "in the middle of the road", "on the asphalt", "on a city street"),
    "flowers": (
        "in a field of flowers",
        "among the wild flowers",
        "surrounded by flowers",
        "in a field full of flowers",
    ),
    "leaves": ("in dry leaves", "in fallen leaves", "on the autumn leaves", "on brown leaves"),
    "rock": ("on the rocks", "on a mountain", "on the mountain", "among rocks", "on the stones"),
}
"""Where something stands, in addition to `phrases.ON_GROUND`."""
SCENERY = {
    "grass": ("in a field", "in the field", "in the countryside", "in nature", "in a meadow"),
    "sand": ("at the seaside", "in the desert", "by the beach", "on the coast"),
    "snow": ("in winter", "in the winter", "in a winter landscape"),
    "water": ("at the lake", "out at sea", "by the sea"),
    "road": ("in the city", "in a city", "in town"),
    "flowers": ("in a flower field", "in spring", "in a flower garden"),
    "leaves": ("in the park", "in a park", "in the fall", "in the autumn"),
    "rock": ("in the rocky mountains", "in the hills"),
}
"""Where something is that may stand or fly, in addition to `phrases.IN_SCENERY`."""
OUTDOORS = ("outside", "outdoors", "in the open air")
IN_THE_SKY = ("in the sky", "in the air", "up in the sky", "up in the air", "high in the sky")

TIMES = {
    "day": ("in the afternoon", "in the middle of the day", "at noon", "in daylight"),
    "morning": ("early in the morning", "in the early morning", "when the sun comes up"),
    "sunset": ("when the sun goes down", "while the sun is setting", "late in the evening"),
    "night": ("in the dark", "late at night", "in the middle of the night", "at midnight", "on a dark night"),
}
FINE_TIMES = {
    "day": ("on a nice day",),
    "morning": ("on a beautiful morning",),
    "sunset": ("on a lovely evening",),
    "night": ("under the stars", "under a starry sky", "in the moonlight", "under the moon", "by moonlight"),
}
"""Times if the weather does not hide the sun or the stars."""
SUNNY = ("on a sunny day", "in the sunshine", "in the sun", "under a blue sky", "in sunny weather", "on a bright day")
"""By day or in the morning under a clear sky."""
WHITE_CLOUDS = ("with white clouds above",)
"""By day or in the morning under some clouds."""
WEATHER = {
    "clear": ("in good weather", "in fine weather"),
    "clouds": ("with some clouds", "under the clouds", "in cloudy weather"),
    "overcast": ("in grey weather", "in gray weather", "under grey clouds"),
    "rain": ("in the pouring rain", "in heavy rain", "when it rains", "while it is raining", "in bad weather"),
    "snowfall": ("while it is snowing", "when it snows", "in a snowstorm", "while snow is falling"),
    "fog": ("in thick fog", "in misty weather", "in a fog", "when it is foggy"),
    "storm": ("during a thunderstorm", "during a storm", "with thunder and lightning", "in a storm", "in bad weather"),
    "rainbow": ("with a rainbow", "and a rainbow", "with a rainbow behind", "below a rainbow"),
}

ON_LAND = ("standing", "sitting", "waiting", "resting", "relaxing", "playing", "walking")
IN_WATER = ("swimming", "floating")
IN_AIR = ("flying", "flying around", "hovering", "in flight")
DRIVING = ("parked", "waiting", "standing", "driving", "stopped")
PARKED = ("parked", "waiting", "standing")
SAILING = ("sailing", "floating", "anchored")
GROWING = ("growing", "standing")
STANDING = ("standing",)
UPRIGHT = ("standing", "placed")
LYING = ("lying", "standing", "sitting", "placed")
"""Verbs that a still picture does not contradict, by kinds of object."""
RELATIVES = ("that {is}", "which {is}")

PAIRS = {
    "beside": (
        "{a} with {b} to {its} right",
        "{b} with {a} to {its} left",
        "{b} with {a} on {its} left",
        "{a} and to the right of {it} {b}",
        "{a} and on the right of {it} there {is} {b}",
        "{b} and to the left of {it} there {is} {a}",
        "{b} and left of {it} {a}",
        "{a} with {b} to the right of {it}",
        "{a} on the left side and {b} on the right side",
        "{b} on the right and {a} on the left",
        "{a}, and {b} to the right of {it}",
        "{a} on the left side of {b}",
        "{b} on the right side of {a}",
        "on the left {a} and on the right {b}",
        "on the right {b} and on the left {a}",
        "{a} at the left of {b}",
        "{b} at the right of {a}",
    ),
    "above": (
        "{b} with {a} above {it}",
        "{b} with {a} over {it}",
        "{b} with {a} flying above {it}",
        "{b} with {a} flying over {it}",
        "{b} and above {it} {a}",
        "{b} and over {it} there {is} {a}",
        "{b} and above {it} there {is} {a}",
        "{a} and below {it} {b}",
        "{a} and under {it} there {is} {b}",
        "{b} underneath {a}",
        "{a} in the air above {b}",
        "{a} hovering over {b}",
    ),
    "in front": (
        "{b} with {a} in front of {it}",
        "{b} and in front of {it} {a}",
        "{b} and in front of {it} there {is} {a}",
        "{a} with {b} behind {it}",
        "{a} and behind {it} {b}",
        "{a} and behind {it} there {is} {b}",
        "{a}, and {b} behind {it}",
        "{b} hiding behind {a}",
        "{b} just behind {a}",
        "{a} directly in front of {b}",
    ),
}
"""How the first group a lies to the second, b, in the words of `phrases.RELATION_FORMS`' keys. {it} and {its} stand for
the group that is named first; {is} agrees with the other."""
NEIGHBOURS = (
    "{a} close to {b}",
    "{a} near {b}",
    "{a} and next to {it} {b}",
    "{a} and next to {it} there {is} {b}",
    "{a} with {b} next to {it}",
    "{a} and beside {it} {b}",
    "{a} with {b} beside {it}",
    "{a} and {b} next to each other",
    "{a} and {b} side by side",
    "{a} directly next to {b}",
    "{a} by the side of {b}",
)
"""Two groups next to each other; either may be a."""
COMPANIONS = (
    "{a} and {b}",
    "{a} and also {b}",
    "{a} as well as {b}",
    "{a} along with {b}",
    "{a}, and {b} too",
    "{a}, and there {is} {b}",
    "{a} and there {is} also {b}",
)
"""Two groups, however they lie; either may be a."""
LISTS = (
    ("{a}, {b}", " and {c}"),
    ("{a}, {b}", ", and {c}"),
    ("{a} and {b}", " and {c}"),
    ("{a} with {b}", " and {c}"),
    ("{a}, {b}", " and also {c}"),
)
ROWS = (
    "{b} between {a} and {c}",
    "{b} in the middle of {a} and {c}",
    "{b} with {a} on {its} left and {c} on {its} right",
    "{a} on the left, {b} in the middle and {c} on the right",
)
"""Three groups a, b and c from left to right; {its} stands for b."""


def phrase_texts() -> list[str]:
    """All phrases, for the vocabulary; the fields of forms are in braces."""
    mappings = (UNCOUNTED, COUNT_PREFIXES, SIZES, PLACES, SCENERY, TIMES, FINE_TIMES, WEATHER, PAIRS)
    texts = [text for mapping in mappings for texts in mapping.values() for text in texts]
    texts += [word for pairs in NOUNS.values() for pair in pairs for word in pair]
    texts += ROWS
    texts += [part for parts in LISTS for part in parts]
    for phrases in (
        REQUESTS,
        QUESTIONS,
        TITLES,
        CLOSERS,
        DETERMINERS,
        PLURAL_DETERMINERS,
        INTENSIFIERS,
        COLOURED,
        ADJECTIVES,
        ADJECTIVES_OF_ANIMALS,
        ADJECTIVES_OF_FOOD,
        ADJECTIVES_OF_VEHICLES,
        OUTDOORS,
        IN_THE_SKY,
        SUNNY,
        WHITE_CLOUDS,
        ON_LAND,
        IN_WATER,
        IN_AIR,
        DRIVING,
        PARKED,
        SAILING,
        GROWING,
        STANDING,
        UPRIGHT,
        LYING,
        RELATIVES,
        NEIGHBOURS,
        COMPANIONS,
    ):
        texts += phrases
    return [*texts, "it them its their where and is are ? !"]

"""The objects of scenes of 128 pixels and their colours, by all the words that name them.

The order of every tuple is the order of its indices in labels, so new entries go last.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Habitat = Literal["land", "water", "air"]


class ObjectKind(NamedTuple):
    """An object: its name, plural and synonyms (singular, plural), habitat, and the colours of its artworks.

    colours: those that a person would name the natural object with, for the first and the second artwork; empty if
    no single colour fits.
    """

    name: str
    plural: str
    synonyms: tuple[tuple[str, str], ...] = ()
    habitat: Habitat = "land"
    colours: tuple[str, str] = ("", "")


OBJECTS = (
    ObjectKind("cat", "cats", (("kitten", "kittens"),), colours=("orange", "orange")),
    ObjectKind("dog", "dogs", (("puppy", "puppies"),)),
    ObjectKind("horse", "horses", (("pony", "ponies"),), colours=("brown", "brown")),
    ObjectKind("cow", "cows"),
    ObjectKind("pig", "pigs", (("piglet", "piglets"),), colours=("pink", "pink")),
    ObjectKind("sheep", "sheep", colours=("white", "white")),
    ObjectKind("rabbit", "rabbits", (("bunny", "bunnies"),), colours=("white", "white")),
    ObjectKind("fox", "foxes", colours=("orange", "orange")),
    ObjectKind("panda", "pandas", (("panda bear", "panda bears"),)),
    ObjectKind("tiger", "tigers", colours=("orange", "orange")),
    ObjectKind("lion", "lions"),
    ObjectKind("zebra", "zebras"),
    ObjectKind("giraffe", "giraffes"),
    ObjectKind("elephant", "elephants", colours=("grey", "grey")),
    ObjectKind("camel", "camels"),
    ObjectKind("penguin", "penguins"),
    ObjectKind("rooster", "roosters", (("cockerel", "cockerels"),)),
    ObjectKind("duck", "ducks", (), "water"),
    ObjectKind("flamingo", "flamingos", (), "water", ("pink", "pink")),
    ObjectKind("owl", "owls", (), "air", ("brown", "brown")),
    ObjectKind("turtle", "turtles", (("tortoise", "tortoises"),), colours=("green", "green")),
    ObjectKind("frog", "frogs", colours=("green", "green")),
    ObjectKind("dinosaur", "dinosaurs", (("dino", "dinos"),), colours=("green", "green")),
    ObjectKind("whale", "whales", (), "water", ("", "blue")),
    ObjectKind("octopus", "octopuses", (), "water"),
    ObjectKind("crab", "crabs", colours=("orange", "red")),
    ObjectKind("snail", "snails", colours=("brown", "brown")),
    ObjectKind("bird", "birds", (), "air", ("blue", "red")),
    ObjectKind("parrot", "parrots", (), "air"),
    ObjectKind("butterfly", "butterflies", (), "air", ("blue", "orange")),
    ObjectKind("bee", "bees", (("honeybee", "honeybees"),), "air"),
    ObjectKind("airplane", "airplanes", (("plane", "planes"), ("aeroplane", "aeroplanes")), "air"),
    ObjectKind("helicopter", "helicopters", (), "air", ("yellow", "")),
    ObjectKind("rocket", "rockets", (("spaceship", "spaceships"),), "air"),
    ObjectKind("balloon", "balloons", (), "air", ("red", "red")),
    ObjectKind("palm tree", "palm trees", (("palm", "palms"),)),
    ObjectKind("pine tree", "pine trees", (("fir tree", "fir trees"),), colours=("green", "green")),
    ObjectKind("cactus", "cacti", (("cactus", "cactuses"),), colours=("green", "green")),
    ObjectKind("sunflower", "sunflowers", colours=("yellow", "yellow")),
    ObjectKind("tulip", "tulips", colours=("pink", "pink")),
    ObjectKind("mushroom", "mushrooms", (("toadstool", "toadstools"),), colours=("red", "red")),
    ObjectKind("pumpkin", "pumpkins", colours=("orange", "orange")),
    ObjectKind("apple", "apples", colours=("red", "red")),
    ObjectKind("banana", "bananas", colours=("yellow", "yellow")),
    ObjectKind("strawberry", "strawberries", colours=("red", "red")),
    ObjectKind("pineapple", "pineapples"),
    ObjectKind("cake", "cakes", (("birthday cake", "birthday cakes"),)),
    ObjectKind("house", "houses", (("cottage", "cottages"),)),
    ObjectKind("castle", "castles"),
    ObjectKind("car", "cars", (("automobile", "automobiles"),), colours=("red", "red")),
    ObjectKind("bus", "buses", colours=("yellow", "")),
    ObjectKind("truck", "trucks", (("lorry", "lorries"),)),
    ObjectKind("train", "trains", (("locomotive", "locomotives"),)),
    ObjectKind("bicycle", "bicycles", (("bike", "bikes"),)),
    ObjectKind("sailboat", "sailboats", (("sailing boat", "sailing boats"),), "water"),
    ObjectKind("chair", "chairs", colours=("brown", "brown")),
    ObjectKind("umbrella", "umbrellas", colours=("", "purple")),
    ObjectKind("guitar", "guitars", colours=("", "red")),
    ObjectKind("ball", "balls", (("soccer ball", "soccer balls"), ("football", "footballs"))),
    ObjectKind("robot", "robots"),
    ObjectKind("snowman", "snowmen", colours=("white", "white")),
    ObjectKind("gift", "gifts", (("present", "presents"),)),
    ObjectKind("clock", "clocks", (("alarm clock", "alarm clocks"),), colours=("red", "red")),
    ObjectKind("teapot", "teapots", (("tea pot", "tea pots"),), colours=("red", "red")),
)
NAMES = tuple(kind.name for kind in OBJECTS)

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "white", "black")
"""The basic colour terms of English (Berlin & Kay 1969)."""
NATURAL = -1
"""The colour index of an object in the colours of its artwork."""
COLOUR_WORDS = {
    **{name: (name,) for name in COLOURS},
    "grey": ("grey", "gray"),
    "purple": ("purple", "violet"),
}

LARGEST_COUNT = 4
"""The largest number of objects in a scene."""


def natural_colour(index: int, artwork: int) -> int:
    """The index of the colour that an artwork (0 or 1) of an object is named with, or `NATURAL` if there is none."""
    name = OBJECTS[index].colours[artwork]
    return COLOURS.index(name) if name else NATURAL


def list_nouns() -> dict[str, int]:
    """The index of each object by all of its names, singular and plural."""
    return {
        noun: index
        for index, kind in enumerate(OBJECTS)
        for pair in ((kind.name, kind.plural), *kind.synonyms)
        for noun in pair
    }


def list_colours() -> dict[str, int]:
    """The index of each colour by all of its names."""
    return {word: COLOURS.index(name) for name, words in COLOUR_WORDS.items() for word in words}

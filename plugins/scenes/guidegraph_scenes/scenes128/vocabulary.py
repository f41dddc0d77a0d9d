"""The words of the scenes of 128 pixels: objects, colours, sizes, grounds, skies and weathers.

The order of every tuple is the order of its indices in labels, so new entries go last.
"""

from __future__ import annotations

from guidegraph_runtime.pictures.scene_objects import COLOURS as COLOURS
from guidegraph_runtime.pictures.scene_objects import LARGEST_COUNT as LARGEST_COUNT
from guidegraph_runtime.pictures.scene_objects import NAMES as NAMES
from guidegraph_runtime.pictures.scene_objects import NATURAL as NATURAL
from guidegraph_runtime.pictures.scene_objects import OBJECTS as OBJECTS
from guidegraph_runtime.pictures.scene_objects import ObjectKind as ObjectKind
from guidegraph_runtime.pictures.scene_objects import natural_colour as natural_colour

AIR = frozenset(index for index, kind in enumerate(OBJECTS) if kind.habitat == "air")
WATER = frozenset(index for index, kind in enumerate(OBJECTS) if kind.habitat == "water")

SIZES = ("small", "normal", "large")
SMALL, NORMAL, LARGE = range(3)

GROUNDS = ("grass", "sand", "snow", "water", "road", "flowers", "leaves", "rock")
SKIES = ("day", "morning", "sunset", "night")
WEATHERS = ("clear", "clouds", "overcast", "rain", "snowfall", "fog", "storm", "rainbow")

CLASSES = NAMES + GROUNDS + SKIES
"""The classes of a scene's map of classes."""

NO_RELATION, LEFT_OF, ABOVE, IN_FRONT_OF = range(4)
"""How the first group of objects lies to the second."""

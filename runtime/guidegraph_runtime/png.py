"""An alias of `guidegraph_runtime.pictures.png`. New code imports `write_png` from `guidegraph_runtime`."""

from guidegraph_runtime.pictures.png import *  # noqa: F403

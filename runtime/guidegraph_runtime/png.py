"""The earlier name of `guidegraph_runtime.pictures.png`, for scripts that import it."""

from guidegraph_runtime.pictures.png import *  # noqa: F403

"""The earlier name of `guidegraph_runtime.running.single_file`, for scripts that import it."""

from guidegraph_runtime.running.single_file import *  # noqa: F403

"""An alias of `guidegraph_runtime.running.single_file`. New code imports `inputs_of` from `guidegraph_runtime`."""

from guidegraph_runtime.running.single_file import *  # noqa: F403

"""Failures of plugins: a reason of one line, and what to do about it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidegraph import graph
from guidegraph.graph.node import NodeDefinitionError
from guidegraph.plugins.entry_points import DISABLE, PluginError
from guidegraph_runtime.error_text import describe_error


def load_or_explain(load: Callable[[], Any], fix: str) -> Any:
    """Return the result of ``load``. Raises ``PluginError`` with the remedy ``fix``, or a more specific one."""
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except NodeDefinitionError as error:
        fix = f"repair the node's signature{format_location(error)}"
        raise PluginError(f"cannot be imported: {error}", fix) from error
    except ImportError as error:
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error
    except BaseException as error:
        fix = f"repair it{format_location(error)}, or leave it out with {DISABLE}"
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error


def format_location(error: BaseException) -> str:
    """Format the error's location in the plugin's code: " at FILE:LINE", or an empty string if unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    loader, engine = Path(__file__).parent, Path(str(graph.__file__)).parent
    frames = traceback.extract_tb(error.__traceback__)
    plugin_frames = [f for f in frames if f.filename[:1] != "<" and "importlib" not in f.filename]
    plugin_frames = [
        f for f in plugin_frames if Path(f.filename).parent != loader and not Path(f.filename).is_relative_to(engine)
    ]
    return f" at {plugin_frames[-1].filename}:{plugin_frames[-1].lineno}" if plugin_frames else ""


def explain_failure(error: BaseException) -> tuple[str, str, str]:
    """The reason, the fix and, if the plugin's own code failed, the traceback of an error."""
    if isinstance(error, PluginError):
        cause = error.__cause__
        return str(error), error.fix, "".join(traceback.format_exception(cause)) if cause else ""
    return (
        describe_error(error),
        f"repair the plugin{format_location(error)}, or leave it out with {DISABLE}",
        "".join(traceback.format_exception(error)),
    )

"""Failures of plugins: a reason of one line, and what to do about it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import pluggy

from guidegraph import graph
from guidegraph.graph.node import NodeDefinitionError
from guidegraph.plugins.entry_points import DISABLE, PluginError
from guidegraph_runtime.error_text import describe_error


def describe_removal(name: str, modules: Collection[str] = ()) -> str:
    """How to leave a plugin out. modules: those that ``--plugin`` names; the others are installed."""
    return f"leave out --plugin {name}" if name in modules else f"leave it out with {DISABLE}"


def load_or_explain(load: Callable[[], Any], fix: str, removal: str) -> Any:
    """Return the result of ``load``. Raises ``PluginError`` with the remedy ``fix``, or a more specific one.

    removal: how to leave the plugin out.
    """
    try:
        return load()
    except (KeyboardInterrupt, PluginError):
        raise
    except NodeDefinitionError as error:
        fix = f"repair the node's signature{format_location(error)}"
        raise PluginError(f"cannot be imported: {error}", fix) from error
    except ImportError as error:
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error
    except BaseException as error:
        fix = f"repair it{format_location(error)}, or {removal}"
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error


def format_location(error: BaseException) -> str:
    """Format the error's location in the plugin's code: " at FILE:LINE", or an empty string if unknown.

    It is the last line of the package that the loader called, also if a library that it uses raised the error.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    folders = [Path(str(module.__file__)).parent for module in (graph, pluggy)]
    frames: list[tuple[FrameType, int]] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        is_import = file[:1] == "<" or "importlib" in file or Path(file).parent == Path(__file__).parent
        if not is_import and not any(map(Path(file).is_relative_to, folders)):
            frames.append((frame, line))
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    own = [entry for entry, package in zip(frames, packages, strict=True) if package == packages[0]]
    return f" at {own[-1][0].f_code.co_filename}:{own[-1][1]}" if own else ""


def explain_failure(error: BaseException, removal: str) -> tuple[str, str, str]:
    """The reason, the fix and, if the plugin's own code failed, the traceback of an error.

    removal: how to leave the plugin out.
    """
    if isinstance(error, PluginError):
        cause = error.__cause__
        return str(error), error.fix, "".join(traceback.format_exception(cause)) if cause else ""
    return (
        describe_error(error),
        f"repair the plugin{format_location(error)}, or {removal}",
        "".join(traceback.format_exception(error)),
    )

"""Previews of values of plugins' own port types: a text, or a small picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pluggy

from guidegraph.graph.types import PortType
from guidegraph.plugins.entry_points import PluginError
from guidegraph.plugins.hookspecs import hook_of
from guidegraph_runtime.error_text import describe_error

HOOK = "guidegraph_preview"
MAX_TEXT = 1000
MAX_BYTES = 4 << 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def find_own_type(kind: PortType, value: Any, types: Collection[type]) -> type | None:
    """The first of a plugin's types that a port has, or that a value at a port of any type is; ``None`` for none."""
    return next((cls for cls in types if cls in kind.alternatives or (kind.is_any and type(value) is cls)), None)


def check_preview(preview: Any) -> str | bytes | None:
    """A preview as a plugin returned it. Raises ``PluginError`` for anything but a text, a PNG or None."""
    fix = (
        f"return a text of at most {MAX_TEXT} characters, the bytes of a PNG of at most {MAX_BYTES >> 20} MiB, or None"
    )
    if preview is None or (isinstance(preview, str) and len(preview) <= MAX_TEXT):
        return preview
    if isinstance(preview, bytes) and preview.startswith(_SIGNATURE) and len(preview) <= MAX_BYTES:
        return preview
    size = f" of length {len(preview)}" if isinstance(preview, (str, bytes)) else ""
    raise PluginError(f"{HOOK} returned {type(preview).__name__}{size}, which is not a preview", fix)


def make_preview(
    hooks: pluggy.PluginManager,
    types: Mapping[str, Collection[type]],
    value: Any,
    kind: PortType,
    report: Callable[[str, BaseException], None],
) -> str | bytes | None:
    """The preview of a value by the plugin whose type it has; ``None`` without one.

    types: of each plugin by its name. kind: the type of the port. A plugin that fails is reported, and its preview is a
    text that says so.
    """
    for name, plugin in hooks.list_name_plugin():
        if (cls := find_own_type(kind, value, types.get(name, ()))) is None:
            continue
        try:
            for preview in hook_of(hooks, HOOK, plugin)(value=value, port_type=cls):
                return check_preview(preview)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # code of a plugin: the page goes on
            report(name, error)
            return f"no preview: {describe_error(error)} (plugin '{name}')"
    return None

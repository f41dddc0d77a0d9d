"""The torch-free part of guidegraph, shared by the engine and exported bundles.

Names are resolved on first use (PEP 562), so that ``import guidegraph_runtime`` loads neither NumPy nor onnxruntime.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers; a test compares it with _HOMES
    from guidegraph_runtime.errors import BundleError as BundleError
    from guidegraph_runtime.limits import LimitExceeded as LimitExceeded
    from guidegraph_runtime.limits import Limits as Limits
    from guidegraph_runtime.limits import enforce_limits as enforce_limits
    from guidegraph_runtime.limits import limited as limited
    from guidegraph_runtime.output_formats import pixels as pixels
    from guidegraph_runtime.pictures.png import write_png as write_png
    from guidegraph_runtime.running.bundle import Bundle as Bundle
    from guidegraph_runtime.running.single_file import inputs_of as inputs_of
    from guidegraph_runtime.running.single_file import inputs_with as inputs_with
    from guidegraph_runtime.running.single_file import read_description as read_description
    from guidegraph_runtime.sessions.sessions import SessionSettings as SessionSettings

__version__ = "0.1.0"

# Official builds of onnxruntime send events to Microsoft, and keep a device id in the home folder, unless this is set
# before onnxruntime is imported. See its Privacy.md.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "guidegraph_runtime.errors": ("BundleError",),
    "guidegraph_runtime.limits": ("LimitExceeded", "Limits", "enforce_limits", "limited"),
    "guidegraph_runtime.output_formats": ("pixels",),
    "guidegraph_runtime.pictures.png": ("write_png",),
    "guidegraph_runtime.running.bundle": ("Bundle",),
    "guidegraph_runtime.running.single_file": ("inputs_of", "inputs_with", "read_description"),
    "guidegraph_runtime.sessions.sessions": ("SessionSettings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

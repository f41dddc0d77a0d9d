"""The torch-free part of guidegraph, shared by the engine and exported bundles.

Names are resolved on first use (PEP 562), so that ``import guidegraph_runtime`` loads neither NumPy nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegraph_runtime.errors import BundleError
    from guidegraph_runtime.limits import LimitExceeded, Limits, enforce_limits, limited
    from guidegraph_runtime.outputs import pixels
    from guidegraph_runtime.pictures.png import write_png
    from guidegraph_runtime.running.bundle import Bundle
    from guidegraph_runtime.running.single_file import inputs_of, inputs_with, read_description
    from guidegraph_runtime.sessions.sessions import SessionSettings

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "LimitExceeded",
    "Limits",
    "SessionSettings",
    "__version__",
    "enforce_limits",
    "inputs_of",
    "inputs_with",
    "limited",
    "pixels",
    "read_description",
    "write_png",
]

_MODULES = {
    "Bundle": "guidegraph_runtime.running.bundle",
    "BundleError": "guidegraph_runtime.errors",
    "LimitExceeded": "guidegraph_runtime.limits",
    "Limits": "guidegraph_runtime.limits",
    "SessionSettings": "guidegraph_runtime.sessions.sessions",
    "enforce_limits": "guidegraph_runtime.limits",
    "inputs_of": "guidegraph_runtime.running.single_file",
    "inputs_with": "guidegraph_runtime.running.single_file",
    "limited": "guidegraph_runtime.limits",
    "pixels": "guidegraph_runtime.outputs",
    "read_description": "guidegraph_runtime.running.single_file",
    "write_png": "guidegraph_runtime.pictures.png",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

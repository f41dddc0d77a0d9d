"""The torch-free part of guidegraph, shared by the engine and exported bundles.

Names are resolved on first use (PEP 562), so that ``import guidegraph_runtime`` loads neither NumPy nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegraph_runtime.errors import BundleError
    from guidegraph_runtime.running.bundle import Bundle
    from guidegraph_runtime.sessions.sessions import SessionSettings

__version__ = "0.1.0"

__all__ = ["Bundle", "BundleError", "SessionSettings", "__version__"]

_HOMES = {
    "Bundle": "guidegraph_runtime.running.bundle",
    "BundleError": "guidegraph_runtime.errors",
    "SessionSettings": "guidegraph_runtime.sessions.sessions",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

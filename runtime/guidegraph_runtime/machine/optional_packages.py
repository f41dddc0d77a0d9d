"""Import packages that a slim install leaves out, or say what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

INSTALLED_BY = {"PIL": "pillow", "tokenizers": "tokenizers"}


def import_optional(module: str, needed_for: str) -> ModuleType:
    """Import a module of a package in INSTALLED_BY. Raises ``ValueError`` with what to install if missing."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is installed but broken
        raise ValueError(
            f"{needed_for} needs the package {INSTALLED_BY[package]}, which is not installed: "
            f"pip install {INSTALLED_BY[package]}"
        ) from None

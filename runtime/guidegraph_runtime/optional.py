"""Packages that a slim install leaves out: what needs them says so."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

INSTALLED_BY = {"PIL": "pillow", "tokenizers": "tokenizers"}


def import_optional(module: str, needed_for: str) -> ModuleType:
    """A module of a package in INSTALLED_BY. Raises ``ValueError``, with what to install, where it is not there."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is there, and broken
        raise ValueError(
            f"{needed_for} needs the package {INSTALLED_BY[package]}, which is not installed: "
            f"pip install {INSTALLED_BY[package]}"
        ) from None

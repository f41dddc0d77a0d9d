"""The installed entry points and the metadata of their distributions. Broken metadata does not hide other plugins."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

from guidegraph.graph.errors import GuidegraphError

GROUP = "guidegraph"
OWN_DISTRIBUTION = "guidegraph"
DISABLE = "GUIDEGRAPH_DISABLE_PLUGINS"


class PluginError(GuidegraphError):
    """A plugin cannot be used; ``fix`` is advice to the user."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


_remembered: list[EntryPoint] | None = None


def remember_entry_points() -> None:
    """Look up the entry points once: a command needs them twice, and each lookup takes 4 ms."""
    global _remembered
    _remembered = list_entry_points()


def list_entry_points() -> list[EntryPoint]:
    """The entry points of plugins, in an order that does not depend on that of ``sys.path``."""
    if _remembered is not None:
        return _remembered
    return sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.name, read_distribution(e)))


def read_disabled_plugins() -> set[str]:
    """The namespaces in ``GUIDEGRAPH_DISABLE_PLUGINS``."""
    return {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}


def find_unreadable() -> Iterator[tuple[str, str]]:
    """The distributions whose entry points cannot be read, with the reason.

    One of them breaks Python's own list of entry points, and the import of every package that uses it.
    """
    for distribution in importlib.metadata.distributions():
        try:
            list(distribution.entry_points)
        except Exception as error:
            yield " ".join(_name_and_version(distribution)), f"{type(error).__name__}: {error}"


def read_distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point is from."""
    name, version = _name_and_version(entry.dist) if entry.dist is not None else ("", "")
    return name or entry.value.partition(":")[0].partition(".")[0], version or "0"


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Name and version from the metadata, or from the name of its folder if the metadata is unreadable."""
    folder = Path(str(getattr(distribution, "_path", ""))).name.partition(".dist-info")[0]
    name, _, version = folder.partition("-")
    name = name.replace("_", "-")  # folders are named so
    try:
        return str(distribution.name or name), str(distribution.version or version)
    except Exception:
        return name, version


def check_entry(entry: EntryPoint) -> None:
    """Raise ``PluginError`` for an entry point that names no namespace, or no object in a module."""
    if not entry.name.isidentifier():
        raise PluginError(
            f"the entry point's name '{entry.name}' is not an identifier", "name the entry point like its namespace"
        )
    if not re.fullmatch(r"[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\])?\s*", entry.value):
        fix = f'write {entry.name} = "module" or {entry.name} = "module:object" in pyproject.toml'
        raise PluginError(f"the entry point's value '{entry.value:.60}' names no module", fix)


def check_requirement(entry: EntryPoint, version: str) -> None:
    """Raise ``PluginError`` if the plugin's distribution requires another version of guidegraph."""
    if normalise_name(read_distribution(entry)[0]) == OWN_DISTRIBUTION:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirements = getattr(entry.dist, "requires", None) or ()
    except Exception as error:
        reason = f"its metadata cannot be read: {type(error).__name__}: {error}"
        fix = f"install it again: pip install --force-reinstall {read_distribution(entry)[0]}"
        raise PluginError(reason, fix) from None
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            fix = "repair 'dependencies' in its pyproject.toml, and install it again"
            raise PluginError(f"its metadata asks for '{text:.60}', which is not a requirement", fix) from error
        if normalise_name(requirement.name) != OWN_DISTRIBUTION or (
            requirement.marker and not requirement.marker.evaluate()
        ):
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            reason = f"needs {OWN_DISTRIBUTION} {requirement.specifier}, and {version} is installed"
            raise PluginError(reason, f"install a version of either that fits: pip install '{requirement}'")


def normalise_name(distribution: str) -> str:
    """Normalise a distribution's name like pip: ``guidegraph_APG`` and ``guidegraph-apg`` are equal."""
    return re.sub(r"[-_.]+", "-", distribution).lower()

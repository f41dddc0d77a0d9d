"""The installed entry points and the metadata of their distributions. Broken metadata does not hide other plugins."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from guidegraph.graph.errors import GuidegraphError

GROUP = "guidegraph"
NAMESPACES_GROUP = "guidegraph_namespaces"
"""Entry points NAMESPACE = "PLUGIN": further namespaces of a distribution's plugin."""
OWN_DISTRIBUTION = "guidegraph"
PACKAGES: dict[str, tuple[str, ...]] = {
    "browser": (),
    "diffusers": (),
    "families": (),
    "lab": ("sweep", "report"),
    "page": ("open",),
    "scenes": (),
    "serve": (),
    "testing": (),
}
"""The distributions of this project besides guidegraph and its runtime, without the `guidegraph-` of their names, and
the commands of ``guidegraph`` in each."""
OWN_NAMES = {OWN_DISTRIBUTION, *[f"{OWN_DISTRIBUTION}-{package}" for package in PACKAGES]}
NAMESPACES: dict[str, tuple[str, ...]] = {
    "lab": ("coding", "data", "features", "loss", "metric", "moments", "plot", "table"),
    "scenes": ("data", "detector", "layout", "scene_eval"),
}
"""The namespaces of the nodes in PACKAGES, which say where they are if the package is not installed."""
DISABLE = "GUIDEGRAPH_DISABLE_PLUGINS"


class PluginError(GuidegraphError):
    """A plugin cannot be used; ``fix`` is advice to the user."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


_remembered: dict[str, list[EntryPoint]] = {}


def remember_entry_points() -> None:
    """Look up the entry points once: a command needs them twice, and each lookup takes 4 ms."""
    installed = importlib.metadata.entry_points()
    _remembered.update({group: _sort_entries(installed.select(group=group)) for group in (GROUP, NAMESPACES_GROUP)})


def list_entry_points(group: str = GROUP) -> list[EntryPoint]:
    """The entry points of plugins, in an order that does not depend on that of ``sys.path``."""
    if group in _remembered:
        return _remembered[group]
    return _sort_entries(importlib.metadata.entry_points(group=group))


def _sort_entries(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    return sorted(entries, key=lambda e: (e.name, read_distribution(e)))


def list_namespaces(entry: EntryPoint, declared: Iterable[EntryPoint]) -> list[str]:
    """The namespaces of a plugin's nodes: the name of its entry point, then those that its distribution declares.

    declared: the entry points of NAMESPACES_GROUP.
    """
    further = [other.name for other in declared if other.value == entry.name]
    if further:
        owner = read_distribution(entry)
        further = [other.name for other in declared if other.value == entry.name and read_distribution(other) == owner]
    return [entry.name, *further]


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


def is_own(distribution: str) -> bool:
    """Whether a distribution is one of this project, which is trusted as guidegraph is."""
    return normalise_name(distribution) in OWN_NAMES


def find_packages(namespace: str) -> list[str]:
    """The distributions in PACKAGES that have a namespace, or are called like it."""
    packages = (package for package in PACKAGES if namespace in (package, *NAMESPACES.get(package, ())))
    return [f"{OWN_DISTRIBUTION}-{package}" for package in packages]


def name_package(command: str) -> str | None:
    """The one of PACKAGES that a command is in."""
    return next((package for package, commands in PACKAGES.items() if command in commands), None)


def find_package(package: str) -> EntryPoint | None:
    """The entry point of one of PACKAGES, if it is installed."""
    entries = (entry for entry in list_entry_points() if entry.name == package)
    return next((entry for entry in entries if is_own(read_distribution(entry)[0])), None)


def check_entry(entry: EntryPoint, namespaces: Iterable[str]) -> None:
    """Raise ``PluginError`` for an entry point that names no namespace, or no object in a module."""
    for name in namespaces:
        if not name.isidentifier():
            reason = f"the entry point's name '{name}' is not an identifier"
            raise PluginError(reason, "name the entry point like its namespace")
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


def import_plugin_module(name: str) -> ModuleType:
    """Import the module ``name``, also from the current directory, or the Python file at the path ``name``.

    Raises ``PluginError`` for a file whose name another module has.
    """
    if not name.endswith(".py"):
        current = str(Path.cwd())
        if current not in sys.path and "" not in sys.path:  # a console script's path lacks the current directory
            sys.path.append(current)
        return import_module(name)
    path = Path(name).absolute()
    present = sys.modules.get(path.stem)
    if present is not None:
        if Path(getattr(present, "__file__", None) or "").absolute() == path:
            return present
        message = f"cannot be imported: a module called '{path.stem}' is imported already"
        raise PluginError(message, f"rename {path.name}")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no Python file {path}")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def package_folders(module: str) -> list[Path]:
    """The folders of an imported module's package; empty for a module outside packages."""
    package = sys.modules.get(module)
    if not hasattr(package, "__path__"):
        package = sys.modules.get(module.rpartition(".")[0])
    return [Path(folder) for folder in getattr(package, "__path__", ())]


@dataclass(frozen=True)
class PluginSelection:
    """The plugins that a command uses: modules by name, and the installed ones if ``installed``."""

    modules: tuple[str, ...] = ()
    installed: bool = True

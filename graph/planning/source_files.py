"""The files and libraries that a node's code is made of: its module, and what that imports, directly or through others.

Imports are read from the source with ``ast``, wherever they stand, so that an import inside of a function counts before
it is executed. A package counts as a whole, with its data files. A module outside of packages counts with what it
imports, and with the files beside it that its strings name. Libraries in ``site-packages`` count by their version.
Files with absolute or computed paths, environment variables and the network are not seen.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from guidegraph.graph.trust.file_checks import open_regular, read_regular

OWN = "guidegraph"
OWN_PREFIX = f"{OWN}."
COUNTED_APART = frozenset({"torch", "guidegraph_runtime"})
"""Libraries that every digest has anyway."""
IMPORT_FUNCTIONS = frozenset({"import_module", "__import__", "files", "get_data"})
"""Functions whose first argument names a module or a package of data."""
IMPORT_WORDS = re.compile(b"import|files|get_data")
"""A file without any of these words imports nothing."""
DESKTOP_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that desktops write into folders that are viewed: they do not change a folder's digest."""


@dataclass
class SourceFiles:
    """The files and libraries of a node's code.

    code, data: paths by name; the names are the same wherever the code is installed. libraries: for each imported
    library, the files that state its version and its contents.
    """

    code: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unit:
    """A package, or a module outside of packages. path: the package's folder, or the module's file."""

    name: str
    path: Path
    is_package: bool

    @property
    def is_own(self) -> bool:
        """Whether it is a part of guidegraph, whose libraries are known, and no plugin."""
        own = self.name.startswith(OWN_PREFIX) or self.name == "guidegraph_runtime"
        return own and not self.name.startswith(OWN_PREFIX + "plugins.")


def find_package(module: str) -> str:
    """The package that an imported module counts as, or the module itself: all nodes of guidegraph are one package."""
    unit = _locate(module, None, is_root=True)
    return module if unit is None else unit.name


def find_source_files(module: str) -> SourceFiles:
    """The files and libraries of an imported module. Empty for one without files, as in a notebook.

    Raises ``OSError`` and ``LimitExceeded``.
    """
    sources, seen = SourceFiles(), set[str]()
    root = _locate(module, None, is_root=True)
    waiting = [] if root is None else [root]
    while waiting:
        unit = waiting.pop()
        if unit.name in seen:
            continue
        seen.add(unit.name)
        if not unit.is_own and _is_installed(unit.path):
            distributions = _find_distributions(unit)
            sources.libraries |= distributions
            if distributions and unit != root:
                continue
        code, data = _list_package(str(unit.path)) if unit.is_package else ({unit.path.name: str(unit.path)}, {})
        sources.code |= {f"{unit.name}/{name}": path for name, path in code.items()}
        if unit.is_own:
            continue
        sources.data |= {f"{unit.name}/{name}": path for name, path in data.items()}
        beside = None if _is_installed(unit.path) else unit.path.parent
        for path in code.values():
            if not path.endswith(".py"):  # a compiled module
                continue
            names, strings = _read_source(path, with_strings=not unit.is_package)
            if not unit.is_package and beside is not None:
                sources.data |= {f"{unit.name}/{name}": file for name, file in _find_named_files(unit.path, strings)}
            for name in sorted(names):
                used = _locate(_resolve(name, unit), beside)
                if used is not None and used.name not in seen:
                    waiting.append(used)
    return sources


def _resolve(name: str, unit: _Unit) -> str:
    """The absolute name of an import. A relative one in a package is of the package itself."""
    if not name.startswith("."):
        return name
    package = unit.name.rpartition(".")[0]
    depth = len(name) - len(name.lstrip("."))
    if unit.is_package or depth > len(package.split(".")):
        return unit.name
    return ".".join([*package.split(".")[: len(package.split(".")) - depth + 1], name[depth:]])


def _locate(name: str, beside: Path | None, *, is_root: bool = False) -> _Unit | None:
    """The package or module whose files a module counts by, ``None`` for Python's own modules and for missing ones.

    beside: a folder to look in after ``sys.path``: a plugin may extend that in its function. Below `guidegraph` the
    nodes are one package, which also counts for its names in `guidegraph`. The engine counts by the version of
    `guidegraph`.
    """
    parts = name.split(".")
    if not is_root and parts[0] in COUNTED_APART:
        return None
    if not is_root and parts[0] == OWN:
        parts = [OWN, "nodes"]
    first = 1 if parts[0] != OWN else 2
    for level in range(first, len(parts) + 1):
        prefix = ".".join(parts[:level])
        file = _find_file(prefix, beside)
        if file is None:
            continue
        if level == 1 and prefix in sys.stdlib_module_names and _is_stdlib(file):
            return None
        is_package = file.stem == "__init__"
        return _Unit(prefix, file.parent if is_package else file, is_package)
    return None


def _find_file(name: str, beside: Path | None) -> Path | None:
    """The file of a module, found without importing it; ``None`` for a folder without ``__init__.py``, and others."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return None if file is None else Path(file)
    parent, _, last = name.rpartition(".")
    try:
        spec = PathFinder.find_spec(name, _search_path(parent)) if parent else importlib.util.find_spec(name)
        if spec is None and beside is not None and not parent:
            spec = PathFinder.find_spec(last, [str(beside)])
    except (ImportError, ValueError, AttributeError, KeyError):  # of a loader that was replaced
        return None  # or, with KeyError, of a folder without __init__.py below another one
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _search_path(package: str) -> list[str]:
    loaded = sys.modules.get(package)
    if loaded is not None:
        return list(getattr(loaded, "__path__", ()))
    parent, _, last = package.rpartition(".")
    if not parent:
        spec = importlib.util.find_spec(package)
        return list(spec.submodule_search_locations or ()) if spec is not None else []
    # Python finds a folder without __init__.py only if the packages above it are imported.
    folders = [folder for path in _search_path(parent) if (folder := Path(path, last)).is_dir()]
    regular = [folder for folder in folders if (folder / "__init__.py").is_file()]
    return [str(folder) for folder in regular[:1] or folders]


@cache
def _library_folders() -> tuple[str, str]:
    return sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")


def _is_installed(path: Path) -> bool:
    """Whether a file or folder is one that pip or a package manager installed."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _is_stdlib(path: Path) -> bool:
    return str(path).startswith(_library_folders()) and not _is_installed(path)


def _find_distributions(unit: _Unit) -> dict[str, str]:
    """The lists of files (RECORD) of the distributions that installed a library, by name and version."""
    top = unit.name.partition(".")[0]
    folder = next(parent for parent in unit.path.parents if parent.name in ("site-packages", "dist-packages"))
    records = _list_records(folder)
    of_that_name = [path for name, path in records.items() if name.partition("-")[0].lower() == top.lower()]
    start = b"\n" + os.fsencode(unit.path.relative_to(folder).as_posix()) + (b"/" if unit.is_package else b",")
    holding = of_that_name or [path for path in records.values() if start in b"\n" + read_regular(path)]
    return {path.parent.name: str(path) for path in holding}


@cache
def _list_records(folder: Path) -> dict[str, Path]:
    """The file RECORD of each distribution in a folder, by the name of its metadata folder."""
    return {path.parent.name: path for path in sorted(folder.glob("*.dist-info/RECORD"))}


def _list_package(folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """The Python files and the data files of a package by their path in it, in order, also behind links to folders."""
    code: dict[str, str] = {}
    data: dict[str, str] = {}
    start = len(folder) + 1
    for path in sorted(_list_files(folder)):
        name = path[start:].replace(os.sep, "/")
        (code if name.endswith(".py") else data)[name] = path
    return code, data


def _list_files(folder: str) -> list[str]:
    """The files below a folder, without compiled ones, hidden folders and broken links. Links that lead back end."""
    files: list[str] = []
    waiting: list[tuple[str, frozenset[str]]] = [(folder, frozenset())]
    while waiting:
        current, around = waiting.pop()
        if (resolved := os.path.realpath(current)) in around:
            continue
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.name.startswith(".") and entry.name != "__pycache__":
                        waiting.append((entry.path, around | {resolved}))
                elif entry.name not in DESKTOP_FILES and not entry.name.endswith(".pyc") and entry.is_file():
                    files.append(entry.path)
    return files


def _read_source(path: str, *, with_strings: bool) -> tuple[set[str], set[str]]:
    """The modules that a Python file imports, relative ones with leading dots, and its strings if they are wanted.

    The fields of a formatted string are ``*``. A file that is no Python of this version imports nothing.
    """
    names: set[str] = set()
    strings: set[str] = set()
    with open_regular(path) as file:
        text = file.read()
    if not with_strings and not IMPORT_WORDS.search(text):
        return names, strings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of wrong escapes in strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return names, strings
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            names.update(alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            base = "." * item.level + (item.module or "")
            names.add(base)
            names.update(f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in item.names)
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            strings.add(item.value)
        elif isinstance(item, ast.JoinedStr):
            strings.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in item.values))
        elif isinstance(item, ast.Call) and _is_import_call(item):
            names.update(a.value for a in item.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))
    return {name for name in names if name.strip(".") and not name.endswith(".*")}, strings


def _is_import_call(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in IMPORT_FUNCTIONS


RECORD = "run.json"


def _holds_runs(folder: str) -> bool:
    """Whether a folder is one that runs are written to, or holds such folders: results are no data of a node."""
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return any(
            entry.name == RECORD or (entry.is_dir() and os.path.exists(os.path.join(entry.path, RECORD)))
            for entry in entries
        )


FILE_PATTERN = re.compile(r"[^\s/]*[*?][^\s/]*\.\w+")


def _find_named_files(path: Path, strings: set[str]) -> Iterator[tuple[str, str]]:
    """The files beside a Python file that its strings name: as a path, a folder, a suffix or a pattern."""
    folder = path.parent
    present = set(os.listdir(folder))
    for text in sorted(strings):
        if FILE_PATTERN.fullmatch(text):
            candidates = fnmatch.filter(present, text)
        elif text.startswith(".") and path.stem + text in present:
            candidates = [path.stem + text]
        else:
            name = os.path.normpath(text)
            candidates = [name] if text.partition("/")[0] in present and name.split(os.sep)[0] in present else []
        for name in candidates:
            candidate = os.path.join(folder, name)
            if _holds_runs(candidate):
                continue
            for file in sorted(_list_files(candidate)) if os.path.isdir(candidate) else [candidate]:
                if os.path.isfile(file):
                    yield os.path.relpath(file, folder).replace(os.sep, "/"), file

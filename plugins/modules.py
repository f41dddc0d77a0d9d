"""Plugins named on the command line: an importable module, or a Python file."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def import_plugin_module(name: str) -> ModuleType:
    """The module called ``name``, from the current directory too, or the Python file at the path ``name``."""
    if name.endswith(".py"):
        return _from_file(Path(name).absolute())
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # a console script's path does not have the current directory
        sys.path.append(here)
    return import_module(name)


def _from_file(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").absolute() == path:
            return known
        raise ImportError(f"a module called '{path.stem}' is imported already: rename {path.name}")
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


def folders_of(module: str) -> list[Path]:
    """The folders of the package that an imported module is, or is in; none for a module that is in no package."""
    package = sys.modules.get(module)
    if not hasattr(package, "__path__"):
        package = sys.modules.get(module.rpartition(".")[0])
    return [Path(folder) for folder in getattr(package, "__path__", ())]

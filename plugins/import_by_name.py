"""Imports plugins named on the command line: modules or Python files."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from guidegraph.plugins.entry_points import PluginError


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

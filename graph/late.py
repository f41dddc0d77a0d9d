"""torch, imported when one of its names is first read, so that `guidegraph validate` and `--help` start without it.

``from guidegraph.graph.late import torch`` at the top of a module takes the place of `import torch` in its functions.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any


class _LateModule:
    """Stands for a module in the globals of its importers, and puts the module there when a name of it is read."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        module = import_module(self.__name__)
        for importer in list(sys.modules.values()):
            if getattr(importer, "__dict__", {}).get(self.__name__) is self:
                vars(importer)[self.__name__] = module
        return getattr(module, attribute)


if TYPE_CHECKING:
    import torch as torch
else:
    torch = _LateModule("torch")

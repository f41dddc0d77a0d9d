"""Finds lasting changes of the process by an import: compares snapshots, and describes the differences.

Only changes outside the plugin count, not its own modules or its additions to ``sys.modules``.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

from guidegraph.graph.trust.process_state import current_folder
from guidegraph.graph.trust.torch_settings import list_torch_settings

Snapshot: TypeAlias = dict[str, dict[str, object]]
"""Values, or identities of objects, by kind and name."""
Changes: TypeAlias = dict[str, list[str]]
"""Changes in words, by kind."""

LIBRARIES = ("guidegraph", "guidegraph_runtime", "torch", "numpy", "safetensors", "PIL", "yaml")
"""Modules, besides Python's own, in which a replaced function counts as a change."""
_FUNCTIONS = frozenset({types.FunctionType, types.BuiltinFunctionType})
_HOOKS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")


def snapshot(*, thorough: bool = True) -> Snapshot:
    """Take a snapshot of the process. thorough: includes methods and the modules of ``LIBRARIES``, in about 50 ms."""
    return {
        "environment variables": dict(os.environ),
        "current directory": {"": current_folder()},
        "signal handlers": {number.name: signal.getsignal(number) for number in signal.Signals},
        "threads": {
            f"{t.name} ({'daemon' if t.daemon else 'keeps the process alive'})": t for t in threading.enumerate()
        },
        "builtins": {name: id(value) for name, value in vars(builtins).items() if name != "_"},
        "functions of modules": _functions(thorough),
        "sys.path": dict.fromkeys(sys.path, 0),
        "warning filters": {"": tuple(map(id, warnings.filters))},
        "locale": {"": locale.setlocale(locale.LC_ALL)},
        "streams": {name: id(getattr(sys, name)) for name in ("stdin", "stdout", "stderr")},
        "hooks": _hooks(),
        "Python": {
            "the recursion limit": sys.getrecursionlimit(),
            "garbage collection": gc.isenabled(),
            "the level of the root logger": logging.root.level,
            "the handlers of the root logger": tuple(map(id, logging.root.handlers)),
        },
        "random generators": _generators(),
        "torch": _torch(),
    }


def compare_snapshots(before: Snapshot, after: Snapshot) -> Changes:
    """Compare two snapshots. Returns only kinds with changes."""
    changes = {}
    for kind, values in before.items():
        format_lines = _FORMATTERS.get(kind, _name_changes)
        if lines := list(format_lines(values, after[kind])):
            changes[kind] = lines
    return changes


@contextmanager
def record_exit_handlers(handlers: list[str]) -> Iterator[None]:
    """Record exit handlers registered in the block, except those of Python's own modules and of ``LIBRARIES``."""
    register: Callable[..., Any] = atexit.register

    def register_and_note(function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        module = str(getattr(function, "__module__", None) or "")
        if not _is_watched(module):
            handlers.append(f"{module}.{getattr(function, '__qualname__', function)}")
        return register(function, *arguments, **keywords)

    atexit.register = register_and_note
    try:
        yield
    finally:
        atexit.register = register


def format_changes(changes: Mapping[str, list[str]]) -> str:
    """Format all changes on one line."""
    return "; ".join(f"{kind}: {', '.join(lines)}" if any(lines) else kind for kind, lines in changes.items())


def _name_changes(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Names that were set, changed or removed; a kind with a single value has no name."""
    for name in sorted({*before, *after}):
        if name not in before:
            yield f"{name} set"
        elif name not in after:
            yield f"{name} removed"
        elif before[name] != after[name]:
            yield f"{name} changed" if name else "changed"


def _new_values(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for name, value in after.items():
        if name in before and before[name] != value:
            yield f"{name} to {value}".strip()


def _new_names(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    yield from sorted({*after} - {*before})


def _additions_and_removals(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{name or '(the current directory)'} added" for name in after if name not in before)
    yield from (f"{name or '(the current directory)'} removed" for name in before if name not in after)


def _differing_names(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    yield from sorted(
        name for name in before if name in after and before[name] is not after[name] and before[name] != after[name]
    )


_FORMATTERS: dict[str, Callable[[Mapping[str, object], Mapping[str, object]], Iterator[str]]] = {
    "current directory": _new_values,
    "signal handlers": _differing_names,
    "threads": _new_names,
    "functions of modules": _differing_names,
    "sys.path": _additions_and_removals,
    "locale": _new_values,
    "streams": _differing_names,
    "hooks": _differing_names,
    "random generators": _differing_names,
    "torch": _new_values,
}


@cache
def _is_core(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top == "guidegraph"


@cache
def _is_watched(module: str) -> bool:
    return _is_core(module) or module.partition(".")[0] in LIBRARIES


def _functions(thorough: bool) -> dict[str, object]:
    """The functions and classes of modules that others rely on, by module and name; with methods if ``thorough``."""
    functions: dict[str, object] = {}
    for module_name, module in list(sys.modules.items()):
        if module_name in ("builtins", "sys"):  # they have their own kinds
            continue
        if not isinstance(module, types.ModuleType) or not (_is_watched if thorough else _is_core)(module_name):
            continue
        for name, value in list(vars(module).items()):
            kind = type(value)  # not isinstance: a module may hold a proxy that is asked for its class
            if kind in _FUNCTIONS:
                functions[f"{module_name}.{name}"] = value
            elif issubclass(kind, type):
                functions[f"{module_name}.{name}"] = value
                if thorough and value.__module__ == module_name:
                    functions |= {
                        f"{module_name}.{name}.{inner}": method
                        for inner, method in list(vars(value).items())
                        if type(method) is types.FunctionType
                    }
    return functions


def _hooks() -> dict[str, object]:
    hooks: dict[str, object] = {f"sys.{name}": id(getattr(sys, name)) for name in _HOOKS}
    hooks |= {"threading.excepthook": id(threading.excepthook), "a trace function": sys.gettrace()}
    hooks["a profile function"] = sys.getprofile()
    return hooks | {f"sys.{name}": tuple(map(id, getattr(sys, name))) for name in ("meta_path", "path_hooks")}


def _generators() -> dict[str, object]:
    states: dict[str, object] = {"Python's": random.getstate()}
    if (numpy := sys.modules.get("numpy.random")) is not None:
        name, words, *position = numpy.get_state()
        states["NumPy's"] = (name, words.tobytes(), *position)
    if (torch := _find_torch()) is not None:
        states["torch's"] = torch.get_rng_state().numpy().tobytes()
    return states


def _torch() -> dict[str, object]:
    torch = _find_torch()
    if torch is None:
        return {}
    return {
        **{f"the {setting.name}": str(setting.read()) for setting in list_torch_settings(torch)},
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "the seed": torch.initial_seed(),
    }


def _find_torch() -> Any:
    """The module torch, if it is completely imported."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_float32_matmul_precision") else None

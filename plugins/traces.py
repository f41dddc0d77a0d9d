"""What an import leaves changed in the process: a snapshot before, one after, and the difference in words.

Only changes that reach beyond the plugin count: its own modules, and what it adds to ``sys.modules``, do not.
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

Snapshot: TypeAlias = dict[str, dict[str, object]]
"""Values, or identities of objects, by what they are called, by their kind."""
Changes: TypeAlias = dict[str, list[str]]
"""What changed, in words, by its kind."""

LIBRARIES = ("guidegraph", "guidegraph_runtime", "torch", "numpy", "safetensors", "PIL", "yaml")
"""Beside Python's own modules, those in which a function that was replaced is a change."""
_FUNCTIONS = frozenset({types.FunctionType, types.BuiltinFunctionType})
_HOOKS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")


def snapshot(*, whole: bool = True) -> Snapshot:
    """The process as it is now. whole: methods, and the modules of ``LIBRARIES``, too, which takes some 50 ms."""
    return {
        "environment variables": dict(os.environ),
        "current directory": {"": current_folder()},
        "signal handlers": {one.name: signal.getsignal(one) for one in signal.Signals},
        "threads": {
            f"{t.name} ({'daemon' if t.daemon else 'keeps the process alive'})": t for t in threading.enumerate()
        },
        "builtins": {name: id(value) for name, value in vars(builtins).items() if name != "_"},
        "functions of modules": _functions(whole),
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


def changes_between(before: Snapshot, after: Snapshot) -> Changes:
    """The kinds in which something changed."""
    found = {}
    for kind, old in before.items():
        words = _IN_WORDS.get(kind, _named)
        if lines := list(words(old, after[kind])):
            found[kind] = lines
    return found


@contextmanager
def exit_handlers(found: list[str]) -> Iterator[None]:
    """Note the exit handlers that are registered inside, but for those of Python's own modules and of ``LIBRARIES``."""
    register: Callable[..., Any] = atexit.register

    def noted(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        module = str(getattr(function, "__module__", None) or "")
        if not _is_watched(module):
            found.append(f"{module}.{getattr(function, '__qualname__', function)}")
        return register(function, *arguments, **named)

    atexit.register = noted
    try:
        yield
    finally:
        atexit.register = register


def in_words(changes: Mapping[str, list[str]]) -> str:
    """All changes on one line."""
    return "; ".join(f"{kind}: {', '.join(lines)}" if any(lines) else kind for kind, lines in changes.items())


def _named(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    """The names of what was set, changed or removed; a kind with one value alone has no name."""
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"{name} set"
        elif name not in new:
            yield f"{name} removed"
        elif old[name] != new[name]:
            yield f"{name} changed" if name else "changed"


def _to(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name, value in new.items():
        if name in old and old[name] != value:
            yield f"{name} to {value}".strip()


def _more(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    yield from sorted({*new} - {*old})


def _added(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{name or '(the current directory)'} added" for name in new if name not in old)
    yield from (f"{name or '(the current directory)'} removed" for name in old if name not in new)


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    yield from sorted(name for name in old if name in new and old[name] is not new[name] and old[name] != new[name])


_IN_WORDS: dict[str, Callable[[Mapping[str, object], Mapping[str, object]], Iterator[str]]] = {
    "current directory": _to,
    "signal handlers": _changed,
    "threads": _more,
    "functions of modules": _changed,
    "sys.path": _added,
    "locale": _to,
    "streams": _changed,
    "hooks": _changed,
    "random generators": _changed,
    "torch": _to,
}


@cache
def _is_core(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top == "guidegraph"


@cache
def _is_watched(module: str) -> bool:
    return _is_core(module) or module.partition(".")[0] in LIBRARIES


def _functions(whole: bool) -> dict[str, object]:
    """The functions and classes of modules that others rely on, by module and name; with methods where ``whole``."""
    found: dict[str, object] = {}
    for module_name, module in list(sys.modules.items()):
        if module_name in ("builtins", "sys"):  # they are looked at by themselves
            continue
        if not isinstance(module, types.ModuleType) or not (_is_watched if whole else _is_core)(module_name):
            continue
        for name, value in list(vars(module).items()):
            kind = type(value)  # not isinstance: a module may hold a proxy that is asked for its class
            if kind in _FUNCTIONS:
                found[f"{module_name}.{name}"] = value
            elif issubclass(kind, type):
                found[f"{module_name}.{name}"] = value
                if whole and value.__module__ == module_name:
                    found |= {
                        f"{module_name}.{name}.{inner}": method
                        for inner, method in list(vars(value).items())
                        if type(method) is types.FunctionType
                    }
    return found


def _hooks() -> dict[str, object]:
    found: dict[str, object] = {f"sys.{name}": id(getattr(sys, name)) for name in _HOOKS}
    found |= {"threading.excepthook": id(threading.excepthook), "a trace function": sys.gettrace()}
    found["a profile function"] = sys.getprofile()
    return found | {f"sys.{name}": tuple(map(id, getattr(sys, name))) for name in ("meta_path", "path_hooks")}


def _generators() -> dict[str, object]:
    found: dict[str, object] = {"Python's": random.getstate()}
    if (numpy := sys.modules.get("numpy.random")) is not None:
        name, words, *rest = numpy.get_state()
        found["NumPy's"] = (name, words.tobytes(), *rest)
    if (torch := _whole_torch()) is not None:
        found["torch's"] = torch.get_rng_state().numpy().tobytes()
    return found


def _torch() -> dict[str, object]:
    torch = _whole_torch()
    if torch is None:
        return {}
    return {
        "the default dtype": str(torch.get_default_dtype()),
        "the default device": str(torch.get_default_device()),
        "recording of gradients": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "precision of matrix products": torch.get_float32_matmul_precision(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "the seed": torch.initial_seed(),
    }


def _whole_torch() -> Any:
    """torch, where it is imported as a whole."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_float32_matmul_precision") else None

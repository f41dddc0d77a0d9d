"""Models as immutable values: modules are frozen and never changed in place, and their copies."""

from __future__ import annotations

import copy
import copyreg
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from guidegraph.graph.late import torch

_ATOMIC = (type(None), bool, int, float, str, bytes)
"""Types of values that copies share."""
_COPY_METHODS = frozenset({"__reduce_ex__", "__getstate__"})
"""Methods that ``copy.deepcopy`` also calls if they are attributes of one object alone."""


def is_module(value: object) -> bool:
    """Whether a value is a ``torch.nn.Module``. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def freeze(value: Any) -> Any:
    """Put a module into evaluation mode without gradients, in place; return any other value unchanged."""
    if is_module(value) and (value.training or any(map(attrgetter("requires_grad"), value.parameters()))):
        value.eval().requires_grad_(False)
    return value


def copy_frozen(value: Any) -> Any:
    """A frozen copy of a module that shares its tensors, leaving the module unchanged; any other value itself."""
    if not is_module(value):
        return value
    memo: dict[int, Any] = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in value.parameters()}
    memo |= {id(b): b for b in value.buffers()}
    copied = deepcopy_module(value, memo)
    return copied.eval() if _may_train(copied) else copied


def _may_train(module: Any) -> bool:
    """Whether ``eval()`` may change a module: one in it trains, or has another ``train`` or ``eval`` than torch's."""
    kind, usual = type(module), torch.nn.Module
    if kind.train is not usual.train or kind.eval is not usual.eval or module.__dict__.get("training", True):
        return True
    return any(_may_train(inner) for inner in module._modules.values() if inner is not None)


def deepcopy_module(module: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy(module, memo)`` returns, in a third of the time.

    Most of its time goes into the eight empty dicts of hooks that each module has. Modules that are copied in a way of
    their own, and other values, are left to it. Modules are copied in its order, since code that copies another may
    read them. memo: copies by the ``id`` of their original.
    """
    if id(module) in memo or not _is_copied_by_attributes(module):
        return copy.deepcopy(module, memo)
    kind: Any = type(module)
    state = module.__getstate__()
    if type(state) is not dict:  # with slots, or without any attribute
        return copy.deepcopy(module, memo)
    copied = memo[id(module)] = kind.__new__(kind)
    copied.__setstate__({name: _copy_attribute(value, memo) for name, value in state.items()})
    return copied


def _copy_attribute(value: Any, memo: dict[int, Any]) -> Any:
    kind: Any = type(value)
    if kind in _ATOMIC or (kind is tuple and all(type(item) in _ATOMIC for item in value)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    copied: Any
    if kind in (OrderedDict, set) and not value and not getattr(value, "__dict__", None):
        copied = memo[id(value)] = kind()
    elif kind is dict and all(type(key) is str for key in value):
        copied = memo[id(value)] = {}
        copied.update({key: _copy_attribute(item, memo) for key, item in value.items()})
    else:
        copied = deepcopy_module(value, memo) if is_module(value) else copy.deepcopy(value, memo)
    return copied


def _is_copied_by_attributes(module: Any) -> bool:
    """Whether ``copy.deepcopy`` copies this module attribute by attribute."""
    kind: Any = type(module)
    usual: Any = torch.nn.Module
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__new__ is object.__new__
        and kind.__getstate__ is usual.__getstate__
        and kind.__setstate__.__module__.startswith("torch.nn.modules")
        and kind not in copyreg.dispatch_table
        and _COPY_METHODS.isdisjoint(vars(module))
        and not hasattr(module, "__deepcopy__")  # which a wrapper may look up in the module that it holds
    )


@dataclass(frozen=True)
class ExportRecipe:
    """An operation of the torch-free runtime, and a traceable function of its outputs.

    operation: its name in the runtime, such as ``text.tokenize``. ports: the operation's name for each of the node's
    ports. settings: its literals; bytes become a file of the bundle. outputs: its output tensors by name, each with its
    axes as in a port type: "B", "M", or a size. function: takes those tensors by name and returns the node's result.
    beside: a port of the operation for a list, or "" if no port takes one. It takes the parameters and constants that
    other calls of the operation with the same settings read, so that all fill up their results to one size, such as the
    longest prompt's. The function must mark what is filled up, for example in a mask, so that it changes no result.
    """

    operation: str
    ports: Mapping[str, str]
    outputs: Mapping[str, tuple[str | int, ...]]
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: str = ""

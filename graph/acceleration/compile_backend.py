"""Parts as functions that torch.compile has compiled, with CUDA graphs on a GPU. They last as long as this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.acceleration.export_part import PartRunner
from guidegraph.graph.acceleration.part import Part, PartExample, WatchedSize, part_key, plan_function
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import Refusal
from guidegraph.graph.execution.watched_sizes import use_watch
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.torch_private import pytree

MOST_FUNCTIONS = 16
_functions: OrderedDict[str, CompiledPart] = OrderedDict()
"""The compiled parts of this process by key, the most recently used last."""
_lock = threading.Lock()
"""Held while ``_functions`` is read or changed."""


class CompiledPart:
    """A compiled function of flat tensors. Nothing is watched in it."""

    watched: tuple[WatchedSize, ...] = ()

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], device: str):
        self._on_gpu = not device.startswith("cpu")
        mode = "reduce-overhead" if self._on_gpu else None  # which records CUDA graphs
        self._function: Any = torch.compile(function, mode=mode)

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs, as tensors of their own: a CUDA graph writes to the same memory each time."""
        if self._on_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        with use_watch(None):
            outputs: Sequence[Tensor] = self._function(*tensors)
        return [output.clone() for output in outputs] if self._on_gpu else outputs


class CompileBackend:
    """Compiles parts with torch.compile."""

    name = "torch.compile"
    lifts_numbers = True
    keeps_graphs = False

    def __init__(self, config: RunConfig):
        self._config = config

    def find(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> PartRunner | None:
        """The compiled part of an earlier run; torch compiles it again for other sizes if it must."""
        key = self.identify(part, flat)
        with _lock:
            if key in _functions:
                _functions.move_to_end(key)
            return _functions.get(key)

    def make(self, part: Part, example: PartExample) -> PartRunner:
        """Compile a part: at its first call, which is made here, so that an error is one of the compilation.

        Raises ``ValueError`` for a number or flag in a result: a tensor's value may decide it, which torch.compile
        allows, so it may differ from call to call, and only tensors are returned.
        """
        if any(isinstance(leaf, (int, float)) for leaf in pytree.tree_leaves(example.results)):
            raise ValueError(
                "a node outside of the part reads a number or flag that is computed in it, and not a tensor"
            )
        plan, _ = plan_function(part, example, watches=False)
        compiled = CompiledPart(plan.function, self._config.device)
        compiled(example.tensors)
        with _lock:
            _functions[self.identify(part, example.flat)] = compiled
            while len(_functions) > MOST_FUNCTIONS:
                _functions.popitem(last=False)
        return compiled

    def keep_refusal(self, part: Part, flat: Sequence[FlatValue], refusal: Refusal) -> None:
        """Nothing is kept on disk."""

    def identify(self, part: Part, flat: Sequence[FlatValue]) -> str:
        """The key of a compiled part."""
        return part_key(part, flat, (self.name, self._config.device), self._config.device_key)

    def was_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> bool:
        """False: nothing is kept between processes."""
        return False

    def note_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> None:
        """Nothing is kept between processes."""

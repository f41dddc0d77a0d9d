"""Objects of this process that a run uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Observer
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.loop_context import Previewed
from guidegraph.graph.memory.weights import Mover
from guidegraph.graph.stopping.loop_state import LoopState, StopToken
from guidegraph.graph.types import PortType


@dataclass(frozen=True)
class Attachments:
    """Objects of this process that a run uses, in addition to its ``RunConfig``.

    memory: a cache in memory. observers: called with each event. on_output: called with name, value and type as soon as
    an output is complete. on_preview: called with each output of a training loop's previews.
    stop: stops the run between two iterations of a loop. resume: the state of a loop to go on from.
    mover: moves tensors to the device and back; by default torch does, on devices other than the CPU.
    """

    memory: MemoryCache | None = None
    observers: Sequence[Observer] = ()
    cancel: CancelToken = field(default_factory=CancelToken)
    on_output: Callable[[str, Any, PortType], None] | None = None
    on_preview: Callable[[Previewed], None] | None = None
    mover: Mover | None = None
    stop: StopToken = field(default_factory=StopToken)
    resume: LoopState | None = None

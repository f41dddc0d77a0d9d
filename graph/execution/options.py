"""Options of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.execution.cache import DiskCache, MemoryCache
from guidegraph.graph.execution.loop_context import Previewed
from guidegraph.graph.memory.weights import Mover
from guidegraph.graph.planning.passes import ALL_PASSES
from guidegraph.graph.trust.limits import Limits, current_limits
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy
from guidegraph.graph.types import PortType


@dataclass
class RunOptions:
    """Options of a run.

    on_output: called with name, value and type as soon as an output is complete. on_preview: called with each output of
    a training loop's previews.
    memory_budget: bytes of model weights that may be on the device at once; ``None``: models stay where they are made.
    mover: moves tensors to the device and back; by default torch does, on devices other than the CPU.
    policy: which files the workflow may read, write and load code from.
    limits: on the run's resources; by default those in force when the options are created.
    """

    device: str = "cpu"
    dtype: str = "float32"
    passes: Collection[str] = ALL_PASSES
    memory: MemoryCache | None = None
    disk: DiskCache | None = None
    observers: Sequence[events.Observer] = ()
    cancel: CancelToken = field(default_factory=CancelToken)
    only: Collection[str] | None = None
    on_output: Callable[[str, Any, PortType], None] | None = None
    on_preview: Callable[[Previewed], None] | None = None
    memory_budget: int | None = None
    mover: Mover | None = None
    policy: Policy = OWN_WORKFLOW
    limits: Limits = field(default_factory=current_limits)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a dtype that is not in ``DTYPES``."""
        if self.dtype not in DTYPES:
            raise ValueError(f"there is no dtype '{self.dtype}' for a run; dtypes: {', '.join(DTYPES)}")


def budget_problem(options: RunOptions) -> str:
    """The reason why a memory budget cannot be kept; empty if it can."""
    if options.memory_budget is None or options.mover is not None or not on_cpu(options.device):
        return ""
    return "a memory budget is for the weights on another device than the CPU, and this run is on the CPU"


def on_cpu(device: str) -> bool:
    """Whether a device, by its torch name, is the CPU."""
    return device.partition(":")[0] == "cpu"

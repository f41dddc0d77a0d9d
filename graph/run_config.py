"""The settings of a run: one object from the command line, Python or a sweep to the engine and to Ray's workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.planning.passes import ALL_PASSES, PASSES
from guidegraph.graph.trust.limits import Limits, current_limits
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy

ACCELERATORS: Mapping[str, str] = {"onnx": "onnxruntime", "compile": "torch.compile"}
"""What can run the traceable parts of loops' bodies, with the names of the programs."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run. They are plain data, so they can be sent to another process or machine.

    device: ``cpu``, ``cuda`` or ``cuda:i``. dtype: one of ``DTYPES``. passes: names from ``PASSES``; another collection
    becomes a set. only: the outputs to compute; by default all, and the nodes with effects.
    cache: the folder of the disk cache.
    memory_budget: bytes of model weights that may be on the device at once; ``None``: models stay where they are made.
    stop_at: where to stop: after so many iterations of the only loop, or ``LOOP:ITERATIONS``; empty: nowhere.
    accelerate: what runs the traceable parts of loops: ``onnx``, onnxruntime; ``compile``, torch.compile, also for the
    networks of trainings; or nothing.
    cache_verify: compute one in so many values of the disk cache again, and compare the bits; 0: none.
    policy: which files the workflow may read, write and load code from.
    limits: on the run's resources; by default those in force when the settings are made.
    Raises ``ValueError`` for an unknown dtype, pass or accelerator.
    """

    device: str = "cpu"
    dtype: str = "float32"
    passes: frozenset[str] = ALL_PASSES
    only: Collection[str] | None = None
    cache: Path | None = None
    memory_budget: int | None = None
    policy: Policy = OWN_WORKFLOW
    limits: Limits = field(default_factory=current_limits)
    accelerate: str = ""
    stop_at: str = ""
    cache_verify: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"there is no dtype '{self.dtype}' for a run; dtypes: {', '.join(DTYPES)}")
        if self.accelerate not in ("", *ACCELERATORS):
            raise ValueError(f"there is no accelerator '{self.accelerate}'; accelerators: {', '.join(ACCELERATORS)}")
        object.__setattr__(self, "passes", frozenset(self.passes))
        if unknown := sorted({*self.passes} - ALL_PASSES):
            raise ValueError(f"unknown passes {', '.join(unknown)}; passes: {', '.join(PASSES)}")

    @property
    def prunes(self) -> bool:
        """Whether operations that no output needs are dropped; with ``only``, nodes with effects too."""
        return "prune" in self.passes or self.only is not None

    @property
    def device_key(self) -> str:
        """The device, dtype and accelerator, as digests contain them."""
        return " ".join((self.device, self.dtype, *([self.accelerate] if self.accelerate else ())))

    @property
    def on_cpu(self) -> bool:
        """Whether the device is the CPU."""
        return self.device.partition(":")[0] == "cpu"

    @property
    def budget_problem(self) -> str:
        """The reason why the memory budget cannot be kept; empty if it can."""
        if self.memory_budget is None or not self.on_cpu:
            return ""
        return "a memory budget is for the weights on another device than the CPU, and this run is on the CPU"

    def to_json(self) -> dict[str, Any]:
        """The settings that ``run.json`` contains."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "passes": sorted(self.passes),
            "cache": str(self.cache) if self.cache else None,
            "cache_verify": self.cache_verify or None,
            "memory_budget": self.memory_budget,
            "accelerate": self.accelerate or None,
            "stop_at": self.stop_at or None,
            "only": None if self.only is None else [*self.only],
        }

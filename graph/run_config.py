"""The settings of a run: one object from the command line, Python or a sweep to the engine and to Ray's workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.planning.passes import ALL_PASSES, PASSES
from guidegraph.graph.trust.limits import Limits, current_limits
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy

ACCELERATORS: Mapping[str, str] = {"onnx": "onnxruntime", "compile": "torch.compile"}
"""What can run the traceable parts of loops' bodies, with the names of the programs."""


@dataclass(frozen=True)
class Option:
    """How a setting of a run is given: the option of the commands, and the keyword in Python.

    kind: the type of the option's value. default: its value if it is not given; shown: how ``--help`` prints that.
    commands: those that have the option. resumed: whether the command that resumes a stopped run repeats it.
    """

    help: str
    metavar: str | None = None
    kind: Any = str
    default: Any = ""
    shown: str | bool = True
    least: int | None = None
    commands: Collection[str] = ("run", "sweep", "open")
    resumed: bool = True


def setting(help: str, value: Any, metavar: str | None = None, **option: Any) -> Any:
    """A field of ``RunConfig`` with its option. The option has the type and default of the field if none are given."""
    written = {"kind": type(value), "default": value, **option}
    return field(default=value, metadata={"option": Option(help, metavar, **written)})


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run. They are plain data, so they can be sent to another process or machine.

    A field with an ``Option`` is an option of the commands, a keyword in Python, and in the records of runs and sweeps.
    dtype: one of ``DTYPES``. passes: names from ``PASSES``; another collection becomes a set. only: the outputs to
    compute; by default all, and the nodes with effects. cache: the folder of the disk cache.
    memory_budget: bytes of model weights that may be on the device at once; ``None``: models stay where they are made.
    policy: which files the workflow may read, write and load code from.
    limits: on the run's resources; by default those in force when the settings are made.
    Raises ``ValueError`` for an unknown dtype, pass or accelerator.
    """

    device: str = setting("Where to compute.", "cpu", "cpu|cuda[:i]", commands=("run", "sweep", "open", "plan"))
    dtype: str = setting(
        "float32, float64, float16 or bfloat16.",
        "float32",
        "DTYPE",
        kind=str | None,
        default=None,
        shown="float32, or the repeated run's",
        commands=("run", "sweep", "open", "plan"),
        resumed=False,
    )
    passes: frozenset[str] = setting(
        "Which passes of the planner to apply ('plan' lists them).",
        ALL_PASSES,
        "all|none|A,B",
        kind=str,
        default="all",
        commands=("run", "plan"),
    )
    only: Collection[str] | None = setting(
        "Compute only this output.", None, "OUTPUT", kind=list[str] | None, commands=("run", "sweep", "plan")
    )
    cache: Path | None = setting(  # noqa: RUF009
        "Keep values in this folder, and recompute only what has changed.",
        None,
        "DIR|off",
        kind=str,
        default="off",
        commands=("run",),
    )
    memory_budget: int | None = setting(
        "How much of the models' weights may be on the device at once, such as 6GB or 800MB.",
        None,
        "SIZE",
        kind=str | None,
        commands=("run",),
    )
    policy: Policy = OWN_WORKFLOW
    limits: Limits = field(default_factory=current_limits)
    accelerate: str = setting(
        "Run the networks' part of loops in onnxruntime, exported once; or with torch.compile.",
        "",
        "[onnx|compile]",
        shown=False,
        commands=("run", "sweep", "plan"),
    )
    stop_at: str = setting(
        "Stop after K iterations of the loop, and write a file to resume from.",
        "",
        "[LOOP:]K",
        commands=("run",),
        resumed=False,
    )
    cache_verify: int = setting(
        "Compute one in N of the cache's values again; a difference is an error. 0: none.",
        0,
        "N",
        least=0,
        commands=("run",),
    )

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
        """The settings that ``run.json`` contains: all that have an option; an empty one is null."""
        return {name: _to_json(getattr(self, name)) for name in list_options()}


def list_options(command: str = "") -> dict[str, Option]:
    """The options of a command by the name of their field; by default those of all commands."""
    options = {each.name: each.metadata["option"] for each in fields(RunConfig) if "option" in each.metadata}
    return {name: option for name, option in options.items() if not command or command in option.commands}


def _to_json(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if value is None or (value in ("", 0) and not isinstance(value, bool)):
        return None
    return [*value] if isinstance(value, Collection) and not isinstance(value, str) else value

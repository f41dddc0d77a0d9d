"""The options that set how a workflow is run: ``--device``, ``--dtype``, ``--passes``, ``--limit`` and more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.errors import Problem, WorkflowError, suggest
from guidegraph.graph.planning.passes import ALL_PASSES, PASSES
from guidegraph.graph.run_config import ACCELERATORS, RunConfig
from guidegraph.graph.trust.limits import Limits, current_limits, enforce_limits, parse_limits
from guidegraph.session import list_folder_problems
from guidegraph_runtime.machine.byte_sizes import parse_size


@dataclass(frozen=True)
class RunSettings:
    """The options as they were given. dtype: ``None`` for float32, or that of the picture that is repeated."""

    device: str = "cpu"
    dtype: str | None = None
    only: list[str] | None = None
    cache: str = "off"
    memory_budget: str | None = None
    passes: str = "all"
    accelerate: str = ""
    stop_at: str = ""
    cache_verify: int = 0

    def parse(self, problems: list[Problem], *, device_is_here: bool = True) -> RunConfig:
        """Check the options, with any problems appended. Neither device nor dtype falls back to another one."""
        dtype = self.dtype or "float32"
        if dtype not in DTYPES:
            message = f"there is no dtype '{dtype}'; {suggest(dtype, DTYPES, 'dtypes')}"
            problems.append(argument_problem("unknown-dtype", message, "--dtype"))
            dtype = "float32"
        if device_is_here and (reason := _device_problem(self.device)):
            problems.append(argument_problem("no-device", reason, "--device"))
        passes = parse_passes(self.passes, problems)
        budget = self._parse_budget(problems)
        cache = None if self.cache == "off" else Path(self.cache).expanduser()
        problems += list_folder_problems({"--cache": cache})
        if self.cache_verify and cache is None:
            problems.append(argument_problem("no-cache", "there is no cache: give --cache DIR too", "--cache-verify"))
        accelerate = parse_accelerator(self.accelerate, problems)
        config = RunConfig(
            self.device,
            dtype,
            passes,
            self.only or None,
            cache,
            budget,
            accelerate=accelerate,
            stop_at=self.stop_at,
            cache_verify=self.cache_verify,
        )
        if accelerate and not problems and device_is_here:
            from guidegraph.graph.acceleration.requirements import acceleration_problem

            if reason := acceleration_problem(config):
                problems.append(argument_problem("cannot-accelerate", reason, "--accelerate"))
        return config

    def _parse_budget(self, problems: list[Problem]) -> int | None:
        if self.memory_budget is None:
            return None
        if self.device == "cpu":
            message = "it limits what is on another device than the CPU: give --device cuda too, or leave it out"
            problems.append(argument_problem("bad-budget", message, "--memory-budget"))
        try:
            return parse_size(self.memory_budget)
        except ValueError as error:
            problems.append(argument_problem("bad-budget", str(error), "--memory-budget"))
            return None


def parse_passes(text: str, problems: list[Problem]) -> frozenset[str]:
    """Parse ``all``, ``none`` or a list of names into passes."""
    if text in ("all", "none"):
        return ALL_PASSES if text == "all" else frozenset()
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PASSES:
            message = f"there is no pass '{name}'; {suggest(name, PASSES, 'passes')}"
            problems.append(argument_problem("unknown-pass", message, "--passes"))
    return frozenset(names) & ALL_PASSES


def parse_accelerator(name: str, problems: list[Problem]) -> str:
    """Check the name of an accelerator; empty for an unknown one."""
    if name in ("", *ACCELERATORS):
        return name
    message = f"there is no accelerator '{name}'; {suggest(name, ACCELERATORS, 'accelerators')}"
    problems.append(argument_problem("unknown-accelerator", message, "--accelerate"))
    return ""


def _device_problem(device: str) -> str:
    if device == "cpu":
        return ""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return f"there is no device '{device}'; devices: cpu, cuda, cuda:i"
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else " (this torch is built for the CPU only)"
        return f"'{device}' was asked for, and this machine has no CUDA device that torch can use{built}"
    count = torch.cuda.device_count()
    return "" if int(match[1] or 0) < count else f"there is no '{device}'; this machine has {count} CUDA device(s)"


@contextmanager
def apply_limits(settings: Sequence[str] | None) -> Iterator[Limits]:
    """Context manager: apply the limits of ``--limit NAME=VALUE``. Raises ``WorkflowError``."""
    try:
        limits = parse_limits(settings or (), current_limits())
    except ValueError as error:
        raise WorkflowError([argument_problem("bad-limit", str(error), "--limit")]) from None
    with enforce_limits(limits):
        yield limits

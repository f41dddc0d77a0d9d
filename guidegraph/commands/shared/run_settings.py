"""The options that set how a workflow is run: ``--device``, ``--dtype``, ``--passes``, ``--limit`` and more."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.acceleration.requirements import acceleration_problem
from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.errors import Problem, WorkflowError, suggest
from guidegraph.graph.late import torch
from guidegraph.graph.planning.passes import ALL_PASSES, PASSES
from guidegraph.graph.run_config import ACCELERATORS, RunConfig, list_options
from guidegraph.graph.trust.limits import Limits, current_limits, enforce_limits, parse_limits
from guidegraph.session import list_folder_problems
from guidegraph_runtime.machine.memory import parse_size

if TYPE_CHECKING:
    from guidegraph.commands.shared.open_workflow import WorkflowRequest
    from guidegraph.graph.ir import Graph
    from guidegraph.runs.stopped_run import StoppedRun


@dataclass(frozen=True)
class RunSettings:
    """The options of a run as they were given, by the name of their field in ``RunConfig``."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """The value of an option, or its default. ``dtype``: ``None`` for float32, or that of the repeated picture."""
        return self.values.get(name, list_options()[name].default)

    def parse(self, problems: list[Problem], *, device_is_here: bool = True) -> RunConfig:
        """Check the options, with any problems appended. Neither device nor dtype falls back to another one."""
        values = {name: self.values.get(name, option.default) for name, option in list_options().items()}
        values["dtype"] = values["dtype"] or "float32"
        if values["dtype"] not in DTYPES:
            message = f"there is no dtype '{values['dtype']}'; {suggest(values['dtype'], DTYPES, 'dtypes')}"
            problems.append(argument_problem("unknown-dtype", message, "--dtype"))
            values["dtype"] = "float32"
        if device_is_here and (reason := _device_problem(values["device"])):
            problems.append(argument_problem("no-device", reason, "--device"))
        values["only"] = values["only"] or None
        values["passes"] = parse_passes(values["passes"], problems)
        values["memory_budget"] = self._parse_budget(problems)
        values["cache"] = None if values["cache"] == "off" else Path(values["cache"]).expanduser()
        problems += list_folder_problems({"--cache": values["cache"]})
        if values["cache_verify"] and values["cache"] is None:
            problems.append(argument_problem("no-cache", "there is no cache: give --cache DIR too", "--cache-verify"))
        values["accelerate"] = parse_accelerator(values["accelerate"], problems)
        config = RunConfig(**values)
        if config.accelerate and not problems and device_is_here and (reason := acceleration_problem(config)):
            problems.append(argument_problem("cannot-accelerate", reason, "--accelerate"))
        return config

    def _parse_budget(self, problems: list[Problem]) -> int | None:
        text = self["memory_budget"]
        if text is None:
            return None
        if self["device"] == "cpu":
            message = "it limits what is on another device than the CPU: give --device cuda too, or leave it out"
            problems.append(argument_problem("bad-budget", message, "--memory-budget"))
        try:
            return parse_size(text)
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


def write_resume_command(
    request: WorkflowRequest, settings: RunSettings, limits: Sequence[str], graph: Graph, stopped: StoppedRun
) -> str:
    """The command with all options of the stopped run that its file does not hold.

    The file holds the parameters and the dtype, but neither files that the user named, as it may be a stranger's, nor
    values that JSON cannot hold.
    """
    words = ["guidegraph", "run", str(request.workflow), "--resume", stopped.file]
    for setting in request.settings:
        name = setting.partition("=")[0].strip()
        if name in stopped.unsaved or (name in graph.params and graph.params[name].port.type.is_path):
            words += ["--set", setting]
    return shlex.join([*words, *_list_options(request, settings, limits)])


def _list_options(request: WorkflowRequest, settings: RunSettings, limits: Sequence[str]) -> Iterator[str]:
    for name, run_option in list_options("run").items():
        flag, value = f"--{name.replace('_', '-')}", settings[name]
        if not run_option.resumed or value is None or value == run_option.default:
            continue
        if isinstance(value, list):
            yield from _repeat(flag, map(str, value))
        elif isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, str(value))
    yield from _repeat("--plugin", request.plugins.modules)
    yield from () if request.plugins.installed else ("--no-plugins",)
    grants = request.grants
    for option, paths in (("read", grants.read), ("write", grants.write), ("code", grants.code)):
        yield from _repeat(f"--allow-{option}", map(str, paths))
    yield from _repeat("--limit", limits)


def _repeat(option: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)

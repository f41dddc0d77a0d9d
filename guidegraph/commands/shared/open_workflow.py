"""From arguments to a validated graph and checked values. Problems are collected and reported together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.errors import Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind import bind
from guidegraph.graph.language.named_workflows import locate_workflow
from guidegraph.graph.planning.passes import ALL_PASSES, PASSES
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.limits import Limits, current_limits, enforce_limits, parse_limits
from guidegraph.graph.trust.policy import Grants, Policy
from guidegraph.runs.recipe import Recipe, is_picture, read_recipe
from guidegraph_runtime.machine.byte_sizes import parse_size


@dataclass(frozen=True)
class OpenedWorkflow:
    """A validated workflow, and the recipe of the picture that it was read from, if any."""

    graph: Graph
    recipe: Recipe | None

    def policy(self, grants: Grants, setting_names: Iterable[str] = (), out: Path | None = None) -> Policy:
        """The policy of the workflow when the user sets the parameters ``setting_names``."""
        return Policy(self.recipe is not None, out, grants, frozenset(setting_names))


def open_workflow(path: Path, registry: Registry) -> OpenedWorkflow:
    """Read a workflow from a file, a plugin or a picture. Raises ``WorkflowError``."""
    path = locate_workflow(path, registry)
    if not is_picture(path):
        return OpenedWorkflow(build(path, registry), None)
    recipe = read_recipe(path)
    return OpenedWorkflow(build(recipe.workflow, registry, recipe.sources, stranger=True), recipe)


def bind_settings(workflow: OpenedWorkflow, settings: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    """Checked values of all parameters. Raises ``WorkflowError`` with ``problems`` and any new ones."""
    all_problems = list(problems)
    texts = parse_settings(settings, all_problems)
    values: dict[str, Any] = {}
    try:
        values = bind(apply_recipe(workflow), texts, text=True, label="--set")
    except WorkflowError as error:
        all_problems += error.problems
    if all_problems:
        raise WorkflowError(all_problems)
    return values


def setting_names(settings: Sequence[str]) -> frozenset[str]:
    """The names of the parameters set by ``--set K=V``."""
    return frozenset(setting.partition("=")[0].strip() for setting in settings)


def parse_settings(settings: Sequence[str], problems: list[Problem]) -> dict[str, str]:
    """The texts of ``--set K=V`` by parameter."""
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            problems.append(argument_problem("bad-setting", f"'{setting}' is not K=V", "--set"))
        else:
            texts[name.strip()] = value
    return texts


def apply_recipe(workflow: OpenedWorkflow) -> Graph:
    """The graph with a picture's parameters as its defaults, which the command line may override."""
    graph, recipe = workflow.graph, workflow.recipe
    if recipe is None:
        return graph
    recorded = {name: parameter for name, parameter in graph.params.items() if name in recipe.params}
    values = bind(replace(graph, params=recorded), recipe.params, label="the picture's parameters")
    defaults = {name: replace(recorded[name], default=value, required=False) for name, value in values.items()}
    return replace(graph, params={**graph.params, **defaults})


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


def parse_budget(text: str | None, device: str, problems: list[Problem]) -> int | None:
    """Parse the memory budget into bytes; None without one."""
    if text is None:
        return None
    if device == "cpu":
        message = "it limits what is on another device than the CPU: give --device cuda too, or leave it out"
        problems.append(argument_problem("bad-budget", message, "--memory-budget"))
    try:
        return parse_size(text)
    except ValueError as error:
        problems.append(argument_problem("bad-budget", str(error), "--memory-budget"))
        return None


@contextmanager
def apply_limits(settings: Sequence[str] | None) -> Iterator[Limits]:
    """Context manager: apply the limits of ``--limit NAME=VALUE``. Raises ``WorkflowError``."""
    try:
        limits = parse_limits(settings or (), current_limits())
    except ValueError as error:
        raise WorkflowError([argument_problem("bad-limit", str(error), "--limit")]) from None
    with enforce_limits(limits):
        yield limits


def unknown_output_problems(graph: Graph, only: Sequence[str] | None) -> list[Problem]:
    """A problem for each requested output that does not exist."""
    return [
        argument_problem(
            "unknown-output", f"there is no output '{name}'; {suggest(name, graph.outputs, 'outputs')}", "--only"
        )
        for name in only or ()
        if name not in graph.outputs
    ]


def device_problems(device: str, dtype: str | None) -> list[Problem]:
    """Problems with the requested device and dtype. Neither falls back to another one."""
    problems = []
    if dtype is not None and dtype not in DTYPES:
        message = f"there is no dtype '{dtype}'; {suggest(dtype, DTYPES, 'dtypes')}"
        problems.append(argument_problem("unknown-dtype", message, "--dtype"))
    if reason := _device_problem(device):
        problems.append(argument_problem("no-device", reason, "--device"))
    return problems


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

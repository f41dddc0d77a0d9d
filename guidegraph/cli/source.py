"""From arguments to a validated graph and checked values; whatever is wrong is collected, then said together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guidegraph.cli.errors import argument_problem
from guidegraph.graph.bind import bind
from guidegraph.graph.build import build
from guidegraph.graph.errors import Problem, WorkflowError, choices
from guidegraph.graph.ir import Graph
from guidegraph.graph.named import named_workflow
from guidegraph.graph.passes import ALL_PASSES, PASSES
from guidegraph.graph.registry import Registry
from guidegraph.graph.sizes import parse_size
from guidegraph.graph.trust.limits import Limits, current_limits, limited, parse_limits
from guidegraph.graph.trust.policy import Grants, Policy
from guidegraph.rerun import Recipe, is_picture, read_recipe

DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Opened:
    """A validated workflow, and the recipe of the picture that it came from."""

    graph: Graph
    recipe: Recipe | None

    def policy(self, grants: Grants, given: Iterable[str] = (), out: Path | None = None) -> Policy:
        """What the workflow may do, where the person gives the values of the parameters ``given``."""
        return Policy(self.recipe is not None, out, grants, frozenset(given))


def open_workflow(path: Path, registry: Registry) -> Opened:
    """Read a workflow, that of a plugin's name, or the one inside a picture. Raises ``WorkflowError``."""
    path = named_workflow(path, registry)
    if not is_picture(path):
        return Opened(build(path, registry), None)
    recipe = read_recipe(path)
    return Opened(build(recipe.workflow, registry, recipe.sources, stranger=True), recipe)


def bound(opened: Opened, settings: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    """Checked values of all parameters. Raises ``WorkflowError`` with ``problems`` and all that is wrong here."""
    found = list(problems)
    texts = setting_texts(settings, found)
    values: dict[str, Any] = {}
    try:
        values = bind(with_recipe(opened), texts, text=True, label="--set")
    except WorkflowError as error:
        found += error.problems
    if found:
        raise WorkflowError(found)
    return values


def given_names(settings: Sequence[str]) -> frozenset[str]:
    """The parameters that ``--set K=V`` gives."""
    return frozenset(setting.partition("=")[0].strip() for setting in settings)


def setting_texts(settings: Sequence[str], problems: list[Problem]) -> dict[str, str]:
    """The texts of ``--set K=V`` by parameter."""
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            problems.append(argument_problem("bad-setting", f"'{setting}' is not K=V", "--set"))
        else:
            texts[name.strip()] = value
    return texts


def with_recipe(opened: Opened) -> Graph:
    """The graph with a picture's parameters as its defaults: what is given on the command line goes over them."""
    graph, recipe = opened.graph, opened.recipe
    if recipe is None:
        return graph
    kept = {name: parameter for name, parameter in graph.params.items() if name in recipe.params}
    values = bind(replace(graph, params=kept), recipe.params, label="the picture's parameters")
    defaults = {name: replace(kept[name], default=value, required=False) for name, value in values.items()}
    return replace(graph, params={**graph.params, **defaults})


def chosen_passes(text: str, problems: list[Problem]) -> frozenset[str]:
    """The passes that ``all``, ``none`` or a list of names means."""
    if text in ("all", "none"):
        return ALL_PASSES if text == "all" else frozenset()
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PASSES:
            message = f"there is no pass '{name}'; {choices(name, PASSES, 'passes')}"
            problems.append(argument_problem("unknown-pass", message, "--passes"))
    return frozenset(names) & ALL_PASSES


def chosen_budget(text: str | None, device: str, problems: list[Problem]) -> int | None:
    """The memory budget in bytes, where one is asked for."""
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
def limits_in_force(settings: Sequence[str] | None) -> Iterator[Limits]:
    """Put the limits of ``--limit NAME=VALUE`` in force for a command. Raises ``WorkflowError``."""
    try:
        limits = parse_limits(settings or (), current_limits())
    except ValueError as error:
        raise WorkflowError([argument_problem("bad-limit", str(error), "--limit")]) from None
    with limited(limits):
        yield limits


def unknown_outputs(graph: Graph, only: Sequence[str] | None) -> list[Problem]:
    """The outputs that are asked for and do not exist."""
    return [
        argument_problem(
            "unknown-output", f"there is no output '{n}'; {choices(n, graph.outputs, 'outputs')}", "--only"
        )
        for n in only or ()
        if n not in graph.outputs
    ]


def place_problems(device: str, dtype: str | None) -> list[Problem]:
    """What is wrong with the device and the dtype that were asked for: nothing else is taken in their place."""
    found = []
    if dtype is not None and dtype not in DTYPES:
        message = f"there is no dtype '{dtype}'; {choices(dtype, DTYPES, 'dtypes')}"
        found.append(argument_problem("unknown-dtype", message, "--dtype"))
    if reason := _device_problem(device):
        found.append(argument_problem("no-device", reason, "--device"))
    return found


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

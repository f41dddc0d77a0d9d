"""``validate``, ``plan`` and ``draw``: what can be said of a workflow without running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from guidegraph.cli.errors import WRONG, print_json, print_text, say, shown
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.source import bound, chosen_passes, open_workflow, unknown_outputs
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.registry import Registry
from guidegraph.graph.types import takes_literal
from guidegraph.outputs import output_problems
from guidegraph_runtime.files import write_text
from guidegraph_runtime.say import visible_line


def validate_command(workflows: Sequence[Path], plugins: Chosen) -> None:
    registry = required_plugins(plugins).registry
    wrong = 0
    for path in workflows:
        try:
            opened = open_workflow(path, registry)
            if problems := unwritable(opened.graph, registry):
                raise WorkflowError(problems)
            print_text(visible_line(f"{path}: ok"))
        except WorkflowError as error:
            wrong += 1
            say(shown(error))
    if wrong:
        raise typer.Exit(WRONG)


def unwritable(graph: Graph, registry: Registry) -> list[Problem]:
    """The outputs that ``run`` could not write. A workflow that needs what cannot be set is for others to use."""
    if any(p.required and not takes_literal(p.port.type) for p in graph.params.values()):
        return []
    return output_problems(graph, registry, None)


def plan_command(
    workflow: Path,
    settings: Sequence[str],
    only: Sequence[str] | None,
    passes: str,
    as_json: bool,
    plugins: Chosen,
) -> None:
    from guidegraph.cli.flat import plan_json, plan_text
    from guidegraph.graph.plan import compile_plan

    opened = open_workflow(workflow, required_plugins(plugins).registry)
    problems = unknown_outputs(opened.graph, only)
    chosen = chosen_passes(passes, problems)
    values = bound(opened, settings, problems)
    found = plan_json(compile_plan(opened.graph, values, passes=chosen, only=only or None))
    if as_json:
        print_json(json.dumps(found, indent=2))
    else:
        print_text("\n".join(map(visible_line, plan_text(found))))


def draw_command(workflow: Path, output: Path | None, plugins: Chosen) -> None:
    from guidegraph.graph.draw import draw_svg

    write_or_print(draw_svg(open_workflow(workflow, required_plugins(plugins).registry).graph), output)


def write_or_print(text: str, output: Path | None, show: Callable[[str], object] = print_text) -> None:
    """Write a text into a file, or print it with ``show``."""
    if output is None or str(output) == "-":
        show(text)
    else:
        write_text(output, text)

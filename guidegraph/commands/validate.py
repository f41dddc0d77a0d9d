"""``validate``: check workflows without running them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.errors import WRONG, format_problems
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_note, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.trust.effects import Effect
from guidegraph.graph.trust.policy import drop_dots, is_shipped
from guidegraph.graph.types import takes_literal
from guidegraph_runtime.printing import visible_line

if TYPE_CHECKING:
    from guidegraph.commands.shared.open_workflow import WorkflowRequest


@app.command(epilog=examples("validate draw.yaml", "validate workflows/*.yaml --plugin my_nodes"))
def validate(
    workflows: Annotated[list[Path], typer.Argument(metavar="WORKFLOW...", show_default=False, help="Workflows.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 also for a valid workflow that cannot run here.")
    ] = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    allow_read: options.AllowRead = None,
    allow_write: options.AllowWrite = None,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
) -> None:
    """Check workflows without running them, and print every error of each.

    The parameters have their defaults, and values that do not fit together are an error. Whatever only this machine
    lacks (an extra of guidegraph, a file, a part of a model) is reported with a fix, and is an error only with
    --strict. The files that a workflow reads, writes or loads code from are listed, except those that ship with
    guidegraph.
    """
    from guidegraph.commands.shared.open_workflow import WorkflowRequest
    from guidegraph.commands.shared.run_settings import apply_limits

    selection, grants = select_plugins(plugin, no_plugins), options.make_grants(allow_read, allow_write, allow_code)
    with apply_limits(limit):
        require_plugins(selection)
        results = [_validate_file(WorkflowRequest(path, [], selection, grants, lazy=True)) for path in workflows]
    if "wrong" in results or (strict and "lacking" in results):
        raise typer.Exit(WRONG)


def _validate_file(request: WorkflowRequest) -> Literal["ok", "wrong", "lacking"]:
    """Check one workflow and print the result; "lacking" if it is valid and only this machine cannot run it."""
    from guidegraph.commands.shared.open_workflow import name_picture
    from guidegraph.runs.check import check_workflow
    from guidegraph.runs.recipe import apply_recipe

    path = request.workflow
    try:
        with name_picture(path):
            opened = request.open()
            graph = apply_recipe(opened.graph, opened.recipe)
            effects, problems = check_workflow(graph, opened.registry, opened.policy())
    except WorkflowError as error:
        print_note(format_problems(error))
        return "wrong"
    print_text(visible_line(f"{path}: ok"))
    for line in format_effects(effects):
        print_text(visible_line(f"  {line}"))
    if problems:
        heading = visible_line(f"{path}: valid, but it cannot run here:")
        print_note(f"{heading}\n{format_problems(WorkflowError(problems))}")
    for line in format_required(graph):
        print_note(visible_line(f"{path}: to run it, give {line}"))
    return "lacking" if problems else "ok"


def format_effects(effects: Iterable[Effect]) -> list[str]:
    """One line for each file that a workflow reads, writes or loads code from, except those shipped with guidegraph."""
    verbs = {"read": "reads", "write": "writes", "code": "loads code from"}
    unknown = "a file whose path is computed in the run"
    lines = [
        f"{verbs[effect.kind]} {drop_dots(effect.path) or unknown} ({effect.node})"
        for effect in effects
        if effect.path is None or not is_shipped(effect.path)
    ]
    return list(dict.fromkeys(lines))


def format_required(graph: Graph) -> list[str]:
    """One line for each required parameter; none if some cannot be set on the command line (models, for example)."""
    required = {name: parameter for name, parameter in graph.params.items() if parameter.required}
    if not all(takes_literal(parameter.port.type) for parameter in required.values()):
        return []
    return [
        f"--set {name}=… ({parameter.port.type})" + (f": {parameter.help}" if parameter.help else "")
        for name, parameter in required.items()
    ]

"""``validate``, ``plan`` and ``draw``: what can be said of a workflow without running it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from guidegraph.cli.errors import WRONG, say, shown
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.source import Opened, bound, chosen_passes, given_names, open_workflow, unknown_outputs, with_recipe
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.effects import Effect, list_effects
from guidegraph.graph.trust.policy import Grants, effect_problems, is_shipped
from guidegraph.graph.types import takes_literal
from guidegraph.outputs import output_problems
from guidegraph_runtime.files import write_text


def validate_command(workflows: Sequence[Path], plugins: Chosen, grants: Grants) -> None:
    registry = required_plugins(plugins).registry
    wrong = 0
    for path in workflows:
        try:
            opened = open_workflow(path, registry)
            effects = list_effects(opened.graph.ops, known_values(opened))
            problems = unwritable(opened.graph, registry) + effect_problems(effects, opened.policy(grants))
            if problems:
                raise WorkflowError(problems)
            typer.echo(f"{path}: ok")
            for line in effect_lines(effects):
                typer.echo(f"  {line}")
        except WorkflowError as error:
            wrong += 1
            say(shown(error))
    if wrong:
        raise typer.Exit(WRONG)


def known_values(opened: Opened) -> dict[str, object]:
    """The parameters' values that are known before a person gives any: those of the picture, and the defaults."""
    return {name: one.default for name, one in with_recipe(opened).params.items() if not one.required}


def effect_lines(effects: Iterable[Effect]) -> list[str]:
    """What a workflow does outside of the package, a line for each file."""
    verbs = {"read": "reads", "write": "writes", "code": "loads code from"}
    lines = [
        f"{verbs[effect.kind]} {effect.path or 'a file whose path is computed in the run'} ({effect.node})"
        for effect in effects
        if effect.path is None or not is_shipped(effect.path)
    ]
    return list(dict.fromkeys(lines))


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
    grants: Grants,
) -> None:
    from guidegraph.cli.flat import plan_json, plan_text
    from guidegraph.graph.plan import compile_plan, needed_ops

    opened = open_workflow(workflow, required_plugins(plugins).registry)
    problems = unknown_outputs(opened.graph, only)
    chosen = chosen_passes(passes, problems)
    values = bound(opened, settings, problems)
    policy = opened.policy(grants, given_names(settings))
    compiled = compile_plan(opened.graph, values, passes=chosen, only=only or None, policy=policy)
    found = plan_json(compiled, list_effects(needed_ops(opened.graph, only or None, values), values))
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(plan_text(found)))


def draw_command(workflow: Path, output: Path | None, plugins: Chosen) -> None:
    from guidegraph.graph.draw import draw_svg

    write_or_print(draw_svg(open_workflow(workflow, required_plugins(plugins).registry).graph), output)


def write_or_print(text: str, output: Path | None) -> None:
    if output is None or str(output) == "-":
        typer.echo(text, nl=not text.endswith("\n"))
    else:
        write_text(output, text)

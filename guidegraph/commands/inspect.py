"""``validate``, ``plan`` and ``draw``: commands that inspect a workflow without running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import typer

from guidegraph.commands.shared.errors import WRONG, format_problems, print_json, print_note, print_text
from guidegraph.commands.shared.options import PluginSelection
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.source import (
    apply_recipe,
    bind_settings,
    open_workflow,
    parse_passes,
    setting_names,
    unknown_output_problems,
)
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.planning.admission import MACHINE_CODES, admission_problems
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.effects import Effect, list_effects
from guidegraph.graph.trust.policy import Grants, drop_dots, effect_problems, is_shipped
from guidegraph.graph.types import takes_literal
from guidegraph.runs.outputs import output_problems
from guidegraph_runtime.files.atomic import write_text
from guidegraph_runtime.printing import visible_line


def validate_command(workflows: Sequence[Path], strict: bool, plugins: PluginSelection, grants: Grants) -> None:
    """Check workflows. Anything that only this machine lacks is reported, and is an error if ``strict``."""
    registry = require_plugins(plugins).registry
    wrong = lacking = 0
    for path in workflows:
        try:
            workflow = open_workflow(path, registry)
            graph = apply_recipe(workflow)
            defaults = {name: parameter.default for name, parameter in graph.params.items() if not parameter.required}
            effects = list_effects(graph.ops, defaults)
            if forbidden := unwritable_problems(graph, registry) + effect_problems(effects, workflow.policy(grants)):
                raise WorkflowError(forbidden)
            problems = admission_problems(graph, defaults)
            if refused := [problem for problem in problems if problem.code not in MACHINE_CODES]:
                raise WorkflowError(refused)
            print_text(visible_line(f"{path}: ok"))
        except WorkflowError as error:
            wrong += 1
            print_note(format_problems(error))
            continue
        for line in format_effects(effects):
            print_text(visible_line(f"  {line}"))
        lacking += bool(problems)
        if problems:
            print_note(
                visible_line(f"{path}: valid, but it cannot run here:")
                + f"\n{format_problems(WorkflowError(problems))}"
            )
        for line in format_required(graph):
            print_note(visible_line(f"{path}: to run it, give {line}"))
    if wrong or (strict and lacking):
        raise typer.Exit(WRONG)


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


def unwritable_problems(graph: Graph, registry: Registry) -> list[Problem]:
    """The outputs that ``run`` could not write. A workflow whose required parameters cannot be set is not checked."""
    if any(p.required and not takes_literal(p.port.type) for p in graph.params.values()):
        return []
    return output_problems(graph, registry, None)


def plan_command(
    workflow: Path,
    settings: Sequence[str],
    only: Sequence[str] | None,
    passes: str,
    as_json: bool,
    plugins: PluginSelection,
    grants: Grants,
) -> None:
    from guidegraph.commands.plan_text import plan_json, plan_text
    from guidegraph.graph.planning.plan import compile_plan, find_needed_ops

    opened = open_workflow(workflow, require_plugins(plugins).registry)
    problems = unknown_output_problems(opened.graph, only)
    passes_ = parse_passes(passes, problems)
    values = bind_settings(opened, settings, problems)
    policy = opened.policy(grants, setting_names(settings))
    compiled = compile_plan(opened.graph, values, passes=passes_, only=only or None, policy=policy)
    plan = plan_json(compiled, list_effects(find_needed_ops(opened.graph, only or None, values), values))
    if as_json:
        print_json(json.dumps(plan, indent=2))
    else:
        print_text("\n".join(map(visible_line, plan_text(plan))))


def draw_command(workflow: Path, output: Path | None, plugins: PluginSelection) -> None:
    from guidegraph.drawing.svg import draw_svg

    write_or_print(draw_svg(open_workflow(workflow, require_plugins(plugins).registry).graph), output)


def write_or_print(text: str, output: Path | None, show: Callable[[str], object] = print_text) -> None:
    """Write text to a file, or print it with ``show``."""
    if output is None or str(output) == "-":
        show(text)
    else:
        write_text(output, text)

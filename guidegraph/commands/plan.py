"""``plan``: the steps that a run would take."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from typing import Any

from guidegraph.commands.shared import options
from guidegraph.commands.shared.options import AcceleratedCommand
from guidegraph.commands.shared.printing import print_json, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.trust.effects import list_effects
from guidegraph_runtime.printing import visible_line


@app.command(
    cls=AcceleratedCommand,
    epilog=examples(
        "plan draw.yaml",
        "plan draw.yaml --set scale=1 --json",
        "plan draw.yaml --passes none",
        "plan draw.yaml --accelerate",
        "plan draw.yaml --dtype bfloat16",
    ),
)
@options.add_run_options("plan")
def plan(
    workflow: options.File,
    set: options.Settings = None,
    json: options.Json = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    allow_read: options.AllowRead = None,
    allow_write: options.AllowWrite = None,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
    **settings: Any,
) -> None:
    """Show the passes, the flat plan that a run would follow, and the files that it would read and write.

    The cost of an emulated dtype is shown too, and with --accelerate the parts of loops that would be accelerated, and
    why other nodes would not.
    """

    from guidegraph.commands.shared.open_workflow import WorkflowRequest, name_picture, parse_settings
    from guidegraph.commands.shared.plan_text import parts_json, parts_text, plan_json, plan_text
    from guidegraph.commands.shared.run_settings import RunSettings, apply_limits, parse_accelerator
    from guidegraph.graph.planning.plan import compile_plan, find_needed_ops

    grants = options.make_grants(allow_read, allow_write, allow_code)
    request = WorkflowRequest(workflow, set or [], select_plugins(plugin, no_plugins), grants, lazy=True)
    accelerate = settings.pop("accelerate", "")
    run_settings = RunSettings(settings)
    with apply_limits(limit), name_picture(workflow):
        opened = request.open()
        problems: list[Problem] = []
        config = opened.complete(run_settings.parse(problems), run_settings["dtype"], None)
        config = replace(config, accelerate=parse_accelerator(accelerate, problems))  # installed here or not
        session = replace(opened.start_session(config, problems), registry=None)  # nothing is written
        values, misfits = session.bind(parse_settings(request.settings, problems), text=True, label="--set")
        if problems := [*problems, *session.list_output_problems("--only"), *misfits]:
            raise WorkflowError(problems)
        compiled = compile_plan(opened.graph, values, config)
        rows = plan_json(compiled, list_effects(find_needed_ops(opened.graph, config.only, values), values))
        if config.accelerate:
            rows["accelerated"] = parts_json(compiled)
        if json:
            print_json(dumps(rows, indent=2))
        else:
            lines = [*plan_text(rows), *(parts_text(rows["accelerated"]) if config.accelerate else ())]
            print_text("\n".join(map(visible_line, lines)))

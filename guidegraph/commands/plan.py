"""``plan``: the steps that a run would take."""

from __future__ import annotations

from guidegraph.commands.shared.options import (
    AllowCode,
    AllowRead,
    AllowWrite,
    File,
    Json,
    LimitSettings,
    NoPlugins,
    Only,
    Passes,
    Plugins,
    Settings,
    make_grants,
)
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_json, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.trust.effects import list_effects
from guidegraph_runtime.printing import visible_line


@app.command(epilog=examples("plan draw.yaml", "plan draw.yaml --set scale=1 --json", "plan draw.yaml --passes none"))
def plan(
    workflow: File,
    set: Settings = None,
    only: Only = None,
    passes: Passes = "all",
    json: Json = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    limit: LimitSettings = None,
) -> None:
    """Show the passes, the flat plan that a run would follow, and the files that it would read and write."""
    from json import dumps

    from guidegraph.commands.plan_text import plan_json, plan_text
    from guidegraph.commands.shared.open_workflow import (
        apply_limits,
        bind_settings,
        open_workflow,
        parse_passes,
        setting_names,
        unknown_output_problems,
    )
    from guidegraph.graph.planning.plan import compile_plan, find_needed_ops

    grants, settings = make_grants(allow_read, allow_write, allow_code), set or []
    with apply_limits(limit):
        opened = open_workflow(workflow, require_plugins(select_plugins(plugin, no_plugins)).registry)
        problems = unknown_output_problems(opened.graph, only)
        enabled = parse_passes(passes, problems)
        values = bind_settings(opened, settings, problems)
        policy = opened.policy(grants, setting_names(settings))
        compiled = compile_plan(opened.graph, values, passes=enabled, only=only or None, policy=policy)
        rows = plan_json(compiled, list_effects(find_needed_ops(opened.graph, only or None, values), values))
        if json:
            print_json(dumps(rows, indent=2))
        else:
            print_text("\n".join(map(visible_line, plan_text(rows))))

"""``draw``: a workflow as SVG."""

from __future__ import annotations

from guidegraph.commands.shared import options
from guidegraph.commands.shared.options import write_or_print
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.root import app, examples, select_plugins


@app.command(epilog=examples("draw draw.yaml -o graph.svg"))
def draw(
    workflow: options.File,
    output: options.Output = None,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    limit: options.LimitSettings = None,
) -> None:
    """Draw a workflow as SVG, with the bodies of its loops as boxes."""
    from guidegraph.commands.shared.open_workflow import name_picture, open_workflow
    from guidegraph.commands.shared.run_settings import apply_limits
    from guidegraph.drawing.svg import draw_svg

    with apply_limits(limit), name_picture(workflow):
        registry = require_plugins(select_plugins(plugin, no_plugins)).registry
        write_or_print(draw_svg(open_workflow(workflow, registry)[0]), output)

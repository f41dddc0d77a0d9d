"""The application, the options before a command, and helpers shared by the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from guidegraph.commands.shared.hints import HintingGroup
from guidegraph.commands.shared.options import NoPlugins, Plugins
from guidegraph.plugins.selection import PluginSelection

app = typer.Typer(
    cls=HintingGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_root_selection = PluginSelection()


def examples(*lines: str) -> str:
    """The epilog of a command's help. The control character ``\\b`` keeps its line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  guidegraph {line}" for line in lines)


def _show_version(value: bool) -> None:
    if value:
        import guidegraph

        typer.echo(f"guidegraph {guidegraph.__version__}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        'run workflows/text_to_image.yaml --set prompt="a tiger on grass"',
        "validate workflows/*.yaml",
        "nodes guidance.cfg",
    )
)
def root(
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run typed graphs of diffusion nodes, written as YAML workflows.

    Exit codes: 0 done, 1 a node failed, 2 the workflow or its arguments are wrong, 130 cancelled.
    """
    global _root_selection
    _root_selection = PluginSelection(tuple(plugin or ()), not no_plugins)


def select_plugins(modules: list[str] | None, left_out: bool) -> PluginSelection:
    """The plugins selected by the options before and after the command."""
    root = _root_selection
    return PluginSelection(tuple(dict.fromkeys([*root.modules, *(modules or ())])), root.installed and not left_out)

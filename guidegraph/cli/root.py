"""The application, its options before a command, and what the commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from guidegraph.cli.options import Chosen, NoPlugins, Plugins

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_before_command = Chosen()


def examples(*lines: str) -> str:
    """The end of a command's help. The control character keeps its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  guidegraph {line}" for line in lines)


def _show_version(wanted: bool) -> None:
    if wanted:
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
    global _before_command
    _before_command = Chosen(tuple(plugin or ()), not no_plugins)


def chosen(modules: list[str] | None, left_out: bool) -> Chosen:
    """The plugins that are asked for before the command and after it."""
    before = _before_command
    return Chosen(tuple(dict.fromkeys([*before.modules, *(modules or ())])), before.installed and not left_out)

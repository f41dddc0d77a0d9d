"""The application, the options before a command, and helpers shared by the commands."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guidegraph.commands.shared.options import NoPlugins, Plugins
from guidegraph.graph.language.named_workflows import SUFFIXES
from guidegraph.plugins.entry_points import PluginSelection, name_package
from guidegraph_runtime.machine.optional_packages import package_command

ARGUMENTS = "guidegraph.arguments"
SET = "--set"
OUT = "--out"
_PAGE = "the page is shown by: guidegraph open FILE"
MEANT = {
    "serve": "export a workflow as a bundle (guidegraph export FILE -o BUNDLE) and serve it: guidegraph-serve BUNDLE",
    "list": "guidegraph nodes lists the nodes, and guidegraph plugins the plugins",
    "ls": "guidegraph nodes lists the nodes, and guidegraph plugins the plugins",
    "search": "guidegraph nodes --search WORD",
    "find": "guidegraph nodes --search WORD",
    "edit": "guidegraph open FILE edits a workflow in the browser, and guidegraph set FILE PATH VALUE one value",
    "ui": _PAGE,
    "gui": _PAGE,
    "web": _PAGE,
    "page": _PAGE,
    "train": "a training is a workflow: guidegraph run FILE",
    "generate": "guidegraph run pkg:text_to_image_128.yaml --set prompt=TEXT",
    "check": "guidegraph validate FILE",
    "lint": "guidegraph validate FILE",
    "show": "guidegraph plan FILE, or guidegraph draw FILE -o graph.svg",
    "grid": "guidegraph sweep FILE --grid NAME=1,2,3",
    "help": "guidegraph -h, or guidegraph COMMAND -h",
    "version": "guidegraph --version",
}
"""Commands that do not exist, as they are typed, and the one that does it."""

SWEEP_OPTIONS = {"--grid": "--grid NAME=1,2,3", "--seeds": "--seeds 0:8", "--from": "--from FILE.csv"}
"""Options of a sweep that are typed at other commands, each with an example."""


class HintingContext(TyperGroup.context_class):  # type: ignore[valid-type,misc]  # click's, or of typer's copy
    """The context of the commands. It adds a hint to an error about an unknown command or option that leaves it."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> Any:
        # typer uses click up to 0.20, and a copy of its own since: the classes are known by their names.
        if kind is not None and "UsageError" in {base.__name__ for base in kind.__mro__} and ARGUMENTS in self.meta:
            add_hint(error, self.meta.pop(ARGUMENTS))  # once: the context is left several times
        return super().__exit__(kind, error, traceback)


class CommandGroup(TyperGroup):
    """The commands, with whole lines of help."""

    context_class = HintingContext

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(1000)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def add_hint(error: Any, arguments: Sequence[str]) -> None:
    """Add a hint to the message of a usage error, if there is one. arguments: after ``guidegraph``."""
    name = next((a for a in arguments if not a.startswith("-")), "")
    option = getattr(error, "option_name", None)
    if "No such command" in error.message:
        hint = MEANT.get(name, "")
        if package := name_package(name):
            error.message = f"'guidegraph {name}' is in the package guidegraph-{package}: {package_command(package)}"
            return
        if not hint and name.endswith(SUFFIXES):
            hint = f"guidegraph run {shlex.quote(name)}"
        if hint:
            error.message = f"No such command '{name}'. Instead: {hint}."
    elif option and "No such option" in error.message:
        _hint_at_set(error, option, arguments)
    elif "unexpected extra argument" in error.message and _takes_set(error):
        text = error.message.partition(" (")[2].removesuffix(")")
        if text.endswith(SUFFIXES):  # a second workflow
            return
        setting = text if "=" in text.partition(" ")[0] else f"prompt={text}"
        error.message += f". Parameters are given by --set: {SET} {shlex.quote(setting)}."


def _hint_at_set(error: Any, option: str, arguments: Sequence[str]) -> None:
    """Say that a parameter is given by ``--set``, unless the option is a misspelt one of the command."""
    options = [name for parameter in error.ctx.command.params for name in parameter.opts] if error.ctx else []
    if option == "-o" and OUT in options:
        error.message = f"No such option: -o. The folder is given by {OUT}: {OUT} FOLDER"
        return
    if option in SWEEP_OPTIONS and OUT in options and _takes_set(error):
        error.message = f"No such option: {option}. A sweep takes it: guidegraph sweep FILE {SWEEP_OPTIONS[option]}"
        error.possibilities = None
        return
    if not _takes_set(error) or difflib.get_close_matches(option, options, n=1, cutoff=0.75):
        return
    place = next((i for i, a in enumerate(arguments) if a.partition("=")[0] == option), len(arguments))
    following = next((a for a in arguments[place + 1 : place + 2] if not a.startswith("-")), "VALUE")
    value = arguments[place].partition("=")[2] if place < len(arguments) and "=" in arguments[place] else following
    error.possibilities = None
    setting = shlex.quote(f"{option.lstrip('-').replace('-', '_')}={value}")
    error.message = f"No such option: {option}. A parameter of the workflow is given by --set: {SET} {setting}"


def _takes_set(error: Any) -> bool:
    command = getattr(getattr(error, "ctx", None), "command", None)
    return command is not None and any(SET in parameter.opts for parameter in command.params)


app = typer.Typer(
    cls=CommandGroup,
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

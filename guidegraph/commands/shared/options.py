"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.run_config import ACCELERATORS, list_options
from guidegraph.graph.trust.policy import Grants
from guidegraph_runtime.files.atomic_write import write_text
from guidegraph_runtime.machine.shortages import WriteError

C = TypeVar("C", bound=Callable[..., Any])


def user_path(text: str) -> Path:
    """A path, in which ``~`` stands for the home folder: shells leave it as it is in ``--out=~/x``.

    Raises ``typer.BadParameter`` for an empty text, which would be the current folder.
    """
    if not text:
        raise typer.BadParameter("expected a path; found an empty text: '.' is the current folder")
    return Path(text).expanduser()


def add_run_options(command: str) -> Callable[[C], C]:
    """Decorator: the options of ``RunConfig`` for a command, in place of its parameter ``**settings``."""

    def add(function: C) -> C:
        signature = inspect.signature(function, eval_str=True)
        parameters = list(signature.parameters.values())[:-1]
        place = [parameter.name for parameter in parameters].index("plugin")
        for name, option in list_options(command).items():
            flag = f"--{name.replace('_', '-')}"
            info = typer.Option(
                flag, metavar=option.metavar, help=option.help, show_default=option.shown, min=option.least
            )
            annotation: Any = Annotated[option.kind, info]
            parameter = parameters[place].replace(name=name, default=option.default, annotation=annotation)
            parameters.insert(place, parameter)
            place += 1
            function.__annotations__[name] = annotation
        del function.__annotations__["settings"]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return add


def make_grants(read: list[Path] | None, write: list[Path] | None, code: list[Path] | None) -> Grants:
    """The grants of --allow-read, --allow-write and --allow-code, as absolute paths."""
    return Grants(*(tuple(user_path(str(path)).absolute() for path in paths or ()) for paths in (read, write, code)))


File: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="WORKFLOW", show_default=False, help="A workflow (.yaml), a picture made by one, or PLUGIN:FILE."
    ),
]
Plugins: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="A module with nodes, or a Python file, in addition to the installed plugins.",
    ),
]
NoPlugins: TypeAlias = Annotated[
    bool, typer.Option("--no-plugins", help="Load no plugins of other projects, except those of --plugin.")
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="A parameter's value; lists and dictionaries as in YAML: [1, 2]."),
]
AllowRead: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--allow-read", metavar="PATH", help="A file or folder that a picture's workflow may read."),
]
AllowWrite: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--allow-write", metavar="PATH", help="A file or folder that a picture's workflow may write."),
]
AllowCode: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--allow-code", metavar="FILE", help="A file that any workflow may load code from (TorchScript)."),
]
Events: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print each event as a line of JSON, and nothing else.")
]
NodeTraceback: TypeAlias = Annotated[bool, typer.Option("--traceback", help="Show the traceback of a node that fails.")]
LimitSettings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="Change a limit: trips=20M, file_bytes=100GB, nodes=off."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it; by default it is printed.")
]
PageFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("-o", "--output", parser=user_path, metavar="FILE", help="The page.", show_default="DIR/report.html"),
]
PluginFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        parser=user_path,
        metavar="DIR",
        help="The folder to write.",
        show_default="guidegraph-NAME",
    ),
]


OPTION, DEFAULT = "--accelerate", "onnx"


class AcceleratedCommand(TyperCommand):
    """A command with the option ``--accelerate``, which means ``--accelerate onnx`` if no value follows.

    Where that leaves more arguments than the command has, the word behind the option was meant as its value.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        complete = insert_value(args)
        ctx.allow_extra_args = True
        super().parse_args(ctx, [*complete])
        ctx.allow_extra_args = False
        if not ctx.args:
            return []
        ctx.params.clear()
        words = [*args, "-"]
        has_word_behind = OPTION in words and not words[words.index(OPTION) + 1].startswith("-")
        return super().parse_args(ctx, [*args] if has_word_behind else complete)


def insert_value(arguments: Sequence[str]) -> list[str]:
    """The arguments with the default value after an ``--accelerate`` that no known value follows."""
    complete: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        lacks_value = argument == OPTION and following not in ACCELERATORS
        complete.append(f"{OPTION}={DEFAULT}" if lacks_value else argument)
    return complete


def write_or_print(text: str, output: Path | None, print_: Callable[[str], object] = print_text) -> None:
    """Write text to a file, or print it with ``print_``. Raises as ``write_output`` does."""
    if output is None or str(output) == "-":
        print_(text)
    else:
        write_output(output, text)


def write_output(target: Path, text: str) -> None:
    """Write the file of ``-o``. Raises ``WorkflowError`` for a wrong path, ``WriteError`` for a full disk."""
    check_output(target)
    try:
        write_text(target, text)
    except WriteError:
        raise
    except OSError as error:
        raise _not_written(target, error) from error


def check_output(target: Path) -> None:
    """Raise ``WorkflowError`` if ``target`` is a folder, or lies inside of a file."""
    try:
        file = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
        is_folder = target.is_dir()
    except OSError as error:
        raise _not_written(target, error) from error
    if file is not None:
        raise WorkflowError([argument_problem("not-a-folder", f"'{file}' is not a folder", "--output")])
    if is_folder:
        problem = argument_problem("not-a-file", f"'{target}' is a folder; name the file to write", "--output")
        raise WorkflowError([problem])


def _not_written(target: Path, error: OSError) -> WorkflowError:
    message = f"'{target}' cannot be written: {error.strerror}; name another file"
    return WorkflowError([argument_problem("not-written", message, "--output")])

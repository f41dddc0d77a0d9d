"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from guidegraph.graph.run_config import list_options
from guidegraph.graph.trust.policy import Grants

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
    bool, typer.Option("--no-plugins", help="Load only the built-in nodes and those of --plugin.")
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

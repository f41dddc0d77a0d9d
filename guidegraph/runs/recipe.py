"""The recipe of a picture: workflow and parameters in a PNG's text, written and read back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidegraph.graph.device_context import DTYPES
from guidegraph.graph.errors import Mark, Problem, UnwritableOutput, WorkflowError
from guidegraph.graph.ir import Graph, walk_calls
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.paths import PACKAGE, find_package_roots, find_shipped_folders
from guidegraph.graph.sources import find_value
from guidegraph.graph.trust.file_checks import open_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.runs.outputs import to_json
from guidegraph_runtime.files.regular_files import parse_json
from guidegraph_runtime.pictures.png import read_png_text
from guidegraph_runtime.run_json import picture_text

KEYWORD = "guidegraph"
FORMAT = 2
"""Format 1 named files by absolute paths of the machine that made the picture."""
FORMATS = (1, FORMAT)
LONGEST_NAME = 1000
PICTURE_PARAMS = "the picture's parameters"
"""The location of errors in them."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Recipe:
    """The workflow and settings that made a picture.

    It repeats the whole run, not one picture of a batch: the same parameters give the same files. ``index`` says which
    picture of the batch it was (with our noise, picture i of seed s is the picture of seed s + i alone).
    sources: the texts of the workflow and of those that it uses, by path.
    resumed: the stopped run that it went on from with changes, without which it cannot be repeated.
    """

    workflow: Path
    sources: dict[str, str]
    params: dict[str, Any]
    only: list[str] | None = None
    dtype: str = "float32"
    output: str = ""
    index: int = 0
    batch: int = 1
    seeds: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    resumed: dict[str, Any] | None = None

    def text(self) -> dict[str, str]:
        """The PNG text chunk that ``read_recipe`` reads. It names no folder of the machine that wrote it.

        Raises ``ValueError`` if a file of the workflow cannot be named in this way.
        """
        names = file_names(self.workflow, map(Path, self.sources))
        sources = {names[Path(path)]: text for path, text in self.sources.items()}
        stored = {**vars(self), "workflow": names[self.workflow], "sources": sources}
        return picture_text(KEYWORD, FORMAT, stored)


def file_names(workflow: Path, files: Iterable[Path]) -> dict[Path, str]:
    """Portable names for the files of a workflow, which ``read_recipe`` resolves.

    ``pkg:NAME`` for shipped files. Others are relative to the current folder if it contains the workflow, else to the
    workflow's folder. Files that share only the root with that folder are named from the home folder (``~/``) or
    absolutely.
    """
    current = Path.cwd()
    root = current if workflow.is_relative_to(current) else workflow.parent
    return {path: _file_name(path, root) for path in files}


def _file_name(path: Path, root: Path) -> str:
    shipped = portable_path(path)
    if shipped.startswith(PACKAGE):
        return shipped
    if len(Path(os.path.commonpath([path, root])).parts) > 1:  # more in common than the root of the file system
        return Path(os.path.relpath(path, root)).as_posix()
    try:
        home = Path.home()
    except RuntimeError:  # a process without HOME, whose user has no entry in the password database
        return str(path)
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def resolve_file_name(name: str) -> Path:
    """Resolve a name of ``file_names``; a relative one is relative to the current folder."""
    if name.startswith(PACKAGE):
        return Path(os.path.normpath(find_package_roots()[-1] / name.removeprefix(PACKAGE)))
    return Path(os.path.normpath(Path(name).expanduser().absolute()))


def is_picture(path: Path) -> bool:
    """Whether a path is a picture rather than a workflow: by its content, or by its suffix if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE or path.suffix.lower() == ".png"
    except (OSError, LimitExceeded):
        return path.suffix.lower() == ".png"


def read_recipe(path: Path) -> Recipe:
    """Read the recipe of a picture. Raises ``WorkflowError`` for a PNG without one, and for other files."""
    try:
        text = read_png_text(path).get(KEYWORD)
    except FileNotFoundError:
        raise _picture_error(path, "missing-file", "there is no such file") from None
    except (OSError, ValueError) as error:
        raise _picture_error(path, "not-a-picture", f"cannot be read as a PNG: {error}") from error
    if text is None:
        message = "this PNG carries no guidegraph workflow: only pictures that 'guidegraph run' wrote can be repeated"
        raise _picture_error(path, "no-workflow", message)
    try:
        return _parse_recipe(parse_json(text))
    except (ValueError, TypeError, KeyError, RecursionError, OSError, RuntimeError) as error:
        message = f"the workflow in this PNG cannot be read, it may come from another version: {error}"
        raise _picture_error(path, "bad-workflow", message) from error


def _picture_error(path: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])


def _parse_recipe(data: Any) -> Recipe:
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(data, dict) or data.get("format") not in FORMATS:
        raise ValueError(f"format {FORMAT} expected")
    try:
        recipe = TypeAdapter(Recipe).validate_python(data)
    except ValidationError as error:
        first_error = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first_error['loc']))}: {first_error['msg']}") from error
    for name in ("index", "batch"):
        if type(data.get(name, 0)) is not int:
            raise ValueError(f"{name}: expected a whole number; found {data[name]!r:.80}")
    if data["workflow"] not in recipe.sources:
        raise ValueError("the text of its workflow is missing")
    if recipe.dtype not in DTYPES:
        raise ValueError(f"its dtype is one of {', '.join(DTYPES)}; found '{recipe.dtype[:60]}'")
    for name in recipe.sources:
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise ValueError(f"'{name[:60]!a}' is not a file name")
    sources = {str(resolve_file_name(name)): text for name, text in recipe.sources.items()}
    return replace(recipe, workflow=resolve_file_name(data["workflow"]), sources=sources)


def apply_recipe(graph: Graph, recipe: Recipe | None) -> Graph:
    """The graph with a picture's parameters as its defaults, which the command line may override."""
    return graph if recipe is None else apply_params(graph, recipe.params, PICTURE_PARAMS)


def apply_params(graph: Graph, params: Mapping[str, Any], label: str) -> Graph:
    """The graph with these values as the defaults of its parameters. label: their origin, for error messages.

    Raises ``WorkflowError``.
    """
    recorded = {name: parameter for name, parameter in graph.params.items() if name in params}
    values = bind(replace(graph, params=recorded), params, label=label)
    defaults = {name: replace(recorded[name], default=value, required=False) for name, value in values.items()}
    return replace(graph, params={**graph.params, **defaults})


def portable_value(value: Any) -> Any:
    """A parameter's value as JSON that means the same from any folder. Raises ``UnwritableOutput``."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, Path):
        return portable_path(value)
    if isinstance(value, dict):
        return {str(key): portable_value(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [portable_value(element) for element in value]
    tensors: dict[str, Any] = {}
    tree = to_json(value, "value", tensors)
    if tensors:
        raise UnwritableOutput("holds a tensor, which a picture does not carry")
    return tree


def portable_path(path: Path) -> str:
    """``pkg:NAME`` for a shipped file, else an absolute path."""
    absolute = Path(os.path.abspath(path))
    for root in (*find_package_roots(), *find_shipped_folders()):
        if root.is_dir() and absolute.is_relative_to(root):
            return f"{PACKAGE}{absolute.relative_to(root).as_posix()}"
    return str(absolute)


def portable_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters as JSON. One that cannot be converted is left out, and must be given again."""
    result = {}
    for name, value in values.items():
        try:
            result[name] = portable_value(value)
        except UnwritableOutput:
            continue
    return result


def recipe_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters as JSON for a picture, which may be published: no path names a folder of this machine.

    A path below the current folder is relative to it; of any other file only the name is kept.
    """
    return portable_params({name: _strip_folders(value) for name, value in values.items()})


def _strip_folders(value: Any) -> Any:
    if isinstance(value, Path):
        name = portable_path(value)
        if name.startswith(PACKAGE):
            return name
        absolute, current = Path(os.path.abspath(value)), Path.cwd()
        return absolute.relative_to(current).as_posix() if absolute.is_relative_to(current) else absolute.name
    if isinstance(value, dict):
        return {key: _strip_folders(element) for key, element in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_strip_folders(element) for element in value)
    return value


def find_seeds(graph: Graph, values: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds of a run, by the path of each ``seed`` setting whose value is known before the run."""
    seeds: dict[str, Any] = {}
    for call in walk_calls(graph.ops):
        if (port := call.spec.ports.get("seed")) is None:
            continue
        source, default = call.argument("seed"), None if port.required else port.default
        seeds[f"nodes.{call.key}"] = default if source is None else find_value(source, values)
    return {path: value for path, value in seeds.items() if isinstance(value, (int, list))}

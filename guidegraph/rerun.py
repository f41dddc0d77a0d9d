"""Pictures that carry what made them: workflow and parameters in a PNG's text, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Call, Graph, Literal, Param, walk
from guidegraph.graph.paths import PACKAGE, package_roots
from guidegraph.graph.trust.files import open_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.outputs import OutputError, plain

KEYWORD = "guidegraph"
FORMAT = 1
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Recipe:
    """What made a picture.

    The whole run is repeated, not one picture of a batch: the same parameters give the same files. ``index`` says
    which picture of the batch it was (with our noise, picture i of seed s is the picture of seed s + i alone).
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

    def text(self) -> dict[str, str]:
        """The text chunk, which ``read_recipe`` understands."""
        known = {**vars(self), "workflow": str(self.workflow)}
        return {KEYWORD: json.dumps({"format": FORMAT, **known})}


def is_picture(path: Path) -> bool:
    """Whether a path names a picture rather than a workflow: by its content, or by its name where it has none."""
    try:
        with open_regular(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE or path.suffix.lower() == ".png"
    except (OSError, LimitExceeded):
        return path.suffix.lower() == ".png"


def read_recipe(path: Path) -> Recipe:
    """What made a picture. Raises ``WorkflowError`` for a PNG that does not say, and for what is no PNG."""
    from guidegraph_runtime.png import read_png_text

    try:
        text = read_png_text(path).get(KEYWORD)
    except FileNotFoundError:
        raise _problem(path, "missing-file", "there is no such file") from None
    except (OSError, ValueError) as error:
        raise _problem(path, "not-a-picture", f"cannot be read as a PNG: {error}") from error
    if text is None:
        message = "this PNG carries no guidegraph workflow: only pictures that 'guidegraph run' wrote can be repeated"
        raise _problem(path, "no-workflow", message)
    try:
        return _recipe(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"the workflow in this PNG cannot be read, it may come from another version: {error}"
        raise _problem(path, "bad-workflow", message) from error


def _problem(path: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])


def _recipe(data: Any) -> Recipe:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"format {FORMAT} expected")
    known = {key: value for key, value in data.items() if key in Recipe.__dataclass_fields__}
    recipe = Recipe(**{**known, "workflow": Path(data["workflow"])})
    if not isinstance(recipe.params, dict) or not isinstance(recipe.dtype, str):
        raise ValueError("its parameters are damaged")
    if not (recipe.only is None or (isinstance(recipe.only, list) and all(isinstance(n, str) for n in recipe.only))):
        raise ValueError("its outputs are damaged")
    texts = recipe.sources.values() if isinstance(recipe.sources, dict) else [None]
    if not all(isinstance(t, str) for t in texts) or str(recipe.workflow) not in recipe.sources:
        raise ValueError("the text of its workflow is missing")
    return recipe


def portable(value: Any) -> Any:
    """A parameter's value as JSON that, given again from any folder, means the same. Raises ``OutputError``."""
    if isinstance(value, Path):
        return portable_path(value)
    if isinstance(value, dict):
        return {str(key): portable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [portable(part) for part in value]
    tensors: dict[str, Any] = {}
    tree = plain(value, "value", tensors)
    if tensors:
        raise OutputError("holds a tensor, which a picture does not carry")
    return tree


def portable_path(path: Path) -> str:
    """``pkg:NAME`` for what ships with the package, else an absolute path."""
    absolute = Path(os.path.abspath(path))
    for root in package_roots():
        if root.is_dir() and absolute.is_relative_to(root):
            return f"{PACKAGE}{absolute.relative_to(root).as_posix()}"
    return str(absolute)


def portable_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters as JSON; one that cannot be is left out, and so must be given again."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = portable(value)
        except OutputError:
            continue
    return found


def seeds_of(graph: Graph, values: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds of a run, by the path of each setting called ``seed`` whose value is known before it."""
    found: dict[str, Any] = {}
    for op in walk(graph.ops):
        if not isinstance(op, Call) or (port := op.spec.port("seed")) is None:
            continue
        source = op.settings.get("seed", op.inputs.get("seed"))
        if source is None:
            found[f"nodes.{op.key}"] = None if port.required else port.default
        elif isinstance(source, Literal):
            found[f"nodes.{op.key}"] = source.value
        elif isinstance(source, Param):
            found[f"nodes.{op.key}"] = values.get(source.name)
    return {path: value for path, value in found.items() if isinstance(value, (int, list))}

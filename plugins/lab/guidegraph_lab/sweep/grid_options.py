"""``--grid``, ``--seeds`` and ``--from`` as texts, not yet parsed by the parameters' types."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.edit.document import Document, find_value
from guidegraph.graph.language.edit.nodes import list_nodes
from guidegraph.graph.language.edit.parameters import add_parameter
from guidegraph.graph.language.edit.paths import locate_value
from guidegraph.graph.language.edit.values import set_value
from guidegraph.graph.language.yaml_tree import Scalar, YamlMapping
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph_runtime.samplers.sampler import SAMPLERS

SEED, SAMPLER = "seed", "sampler"
MOST_CELLS = 1_000_000
_CLOSING = {"[": "]", "{": "}"}
_BEFORE = "[{,:"  # precedes a quoted text in a list or mapping; elsewhere a quote is an apostrophe


@dataclass(frozen=True)
class AxisTexts:
    """Parameters that vary together: in each row one text per parameter, and the row's position."""

    option: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[Mark, ...]


def parse_grid(text: str, problems: list[Problem]) -> AxisTexts | None:
    """Parse ``scale=1,2,4``. None, and a problem, for any other form."""
    name, equals, values = text.partition("=")
    try:
        parts = split_values(values)
    except ValueError as error:
        problems.append(Problem(Mark("--grid", 1, 1), "bad-grid", f"'{text}': {error}"))
        return None
    if not equals or not name.strip() or not all(parts):
        message = f"'{text}' is not NAME=VALUE,VALUE,…; a value with a comma in it stands in quotes or brackets"
        problems.append(Problem(Mark("--grid", 1, 1), "bad-grid", message))
        return None
    texts = []
    for part in parts:
        is_quoted = len(part) > 1 and part[0] in "'\"" and part.find(part[0], 1) == len(part) - 1
        texts.append(part[1:-1] if is_quoted else part)
    return _single_axis("--grid", name.strip(), texts)


def parse_seeds(text: str, problems: list[Problem]) -> AxisTexts | None:
    """Parse ``0:64`` (64 excluded), or a list such as ``1,5,10:20``. None, and a problem, for any other form."""
    seeds: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:\s*:\s*(\d{1,18}))?\s*", part, re.ASCII)
        first, end = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
        if end <= first or len(seeds) + end - first > MOST_CELLS:
            message = (
                f"'{text}' is not a list of seeds: write FIRST:END, without END itself, or seeds and ranges with "
                f"commas between them; at most {MOST_CELLS:,}"
            )
            problems.append(Problem(Mark("--seeds", 1, 1), "bad-seeds", message))
            return None
        seeds += map(str, range(first, end))
    return _single_axis("--seeds", SEED, seeds)


def parse_table(path: Path, problems: list[Problem]) -> AxisTexts | None:
    """Read a CSV file whose first line names parameters. None, and problems, if it is not valid."""

    def wrong(message: str, line: int = 1) -> None:
        problems.append(Problem(Mark(str(path), line, 1), "bad-table", message))

    try:
        text = read_regular(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(row, reader.line_num) for row in reader if row]
    except LimitExceeded as error:
        wrong(str(error))
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        wrong(f"cannot be read as CSV in UTF-8: {getattr(error, 'strerror', None) or error}")
        return None
    if len(lines) < 2:
        wrong("a line with names of parameters is expected, and a line of values for each cell; found no values")
        return None
    before = len(problems)
    names = [name.strip() for name in lines[0][0]]
    if not all(names) or len(set(names)) < len(names):
        wrong(f"the first line names a parameter for each column, each once; found {', '.join(map(repr, names))}")
    for row, line in lines[1:]:
        if len(row) != len(names):
            wrong(f"{len(names)} values are expected, one for each column; found {len(row)}", line)
    if len(problems) > before:
        return None
    marks = tuple(Mark(str(path), line, 1) for _, line in lines[1:])
    return AxisTexts("--from", tuple(names), tuple(tuple(row) for row, _ in lines[1:]), marks)


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets and quotes.

    Raises ``ValueError`` for an unclosed quote or bracket, which would swallow the commas after it.
    """
    parts, depth, quote = [""], 0, ""
    closing: list[str] = []
    for character in text:
        if not quote and not depth and character == ",":
            parts.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and parts[-1].rstrip()[-1:] in ("", *(_BEFORE if depth else "")):
            quote = character
        elif character in _CLOSING and (depth or not parts[-1].strip()):
            closing.append(_CLOSING[character])
        elif closing and character == closing[-1]:
            closing.pop()
        depth = len(closing)
        parts[-1] += character
    if quote or closing:
        open_ = quote or next(k for k, v in _CLOSING.items() if v == closing[-1])
        raise ValueError(f'{open_} is not closed; a value that begins with it stands in other quotes: "\'tis"')
    return [part.strip() for part in parts]


def _single_axis(option: str, name: str, texts: Sequence[str]) -> AxisTexts:
    return AxisTexts(option, (name,), tuple((text,) for text in texts), (Mark(option, 1, 1),) * len(texts))


NAMED = "scheduler.named"
PREFIX = "scheduler."
ADVICE = f"give the workflow a parameter 'sampler' that feeds a {NAMED}"


def add_sampler_parameter(graph: Graph, registry: Registry, *, stranger: bool = False) -> Graph:
    """The graph with a parameter ``sampler`` in place of the only sampler in its file; its own is the default.

    stranger: as for ``build``. Raises ``WorkflowError`` if the file has no sampler or several, or one with settings
    that not every sampler has.
    """
    file = str(graph.file)
    document = Document.parse(graph.sources[file], file)
    samplers: list[tuple[str, str]] = []
    for _, path in list_nodes(document):
        use = find_value(locate_value(document, path).tree, "use")
        text = use.text if isinstance(use, Scalar) else ""
        if text.startswith(PREFIX) and text.removeprefix(PREFIX) in SAMPLERS:
            samplers.append((path, text.removeprefix(PREFIX)))
    if len(samplers) != 1:
        listed = ", ".join(path for path, _ in samplers)
        reason = f"{len(samplers)} nodes of its file make one ({listed})" if listed else "no node of its file makes one"
        raise _refuse(document, f"there is no parameter 'sampler', and {reason}: {ADVICE}", "")
    path, sampler = samplers[0]
    spec = registry.nodes[NAMED]
    written: set[str] = set()
    for part in ("in", "with"):
        tree = find_value(locate_value(document, path).tree, part)
        for name in [name.text for name, _ in tree.items] if isinstance(tree, YamlMapping) else []:
            written.add(name)
            if spec.ports.get(name) is None:
                message = f"'{name}' of {PREFIX}{sampler} is not a setting of every sampler: leave it out, or {ADVICE}"
                raise _refuse(document, message, f"{path}.{part}.{name}")
    own = registry.nodes[f"{PREFIX}{sampler}"].settings
    for name, setting in spec.settings.items():
        if name in written or name not in own or own[name].default == setting.default:
            continue
        if own[name].default is None:
            message = (
                f"'{name}' of {PREFIX}{sampler} is not written, and its default is no value: write it, or {ADVICE}"
            )
            raise _refuse(document, message, path)
        document = set_value(document, f"{path}.with.{name}", own[name].default)
    document = add_parameter(document, SAMPLER, sampler, help=f"as for {NAMED}")
    document = set_value(document, f"{path}.use", NAMED)
    document = set_value(document, f"{path}.in.{SAMPLER}", f"params.{SAMPLER}")
    return build(graph.file, registry, {**graph.sources, file: document.text}, stranger=stranger)


def _refuse(document: Document, message: str, path: str) -> WorkflowError:
    mark = locate_value(document, path).tree.mark if path else document.root.mark
    return WorkflowError([Problem(mark, "unknown-param", message, path)])

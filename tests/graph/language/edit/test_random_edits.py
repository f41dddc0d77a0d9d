"""Random edits of every shipped workflow: the text changes where it must, and nowhere else."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.language.edit.document import Document
from guidegraph.graph.language.edit.nodes import add_node, move_node, remove_node, rename_node
from guidegraph.graph.language.edit.parameters import add_parameter, remove_parameter, rename_parameter
from guidegraph.graph.language.edit.values import remove_value, set_value
from tests.graph.language.edit import plain_edits
from tests.paths import ROOT

FILES = sorted([*(ROOT / "workflows").rglob("*.yaml"), *(ROOT / "plugins" / "gallery").rglob("*.yaml")])
LOADER = plain_edits.LOADER
VALUES: list[Any] = [
    3,
    0.25,
    1e-7,
    True,
    None,
    "word",
    "a text: with {braces}, and#hash",
    "it's",
    '"',
    "",
    "6",
    "on",
    [1, [2]],
    {"a": "b c"},
]
LINKS = ["params.seed", "some_node.out", "carry.x", "loop.index"]
COMMENT = re.compile(r"(?:^|\s)(#.*)$", re.MULTILINE)


class Case(NamedTuple):
    """An edit, the expected plain data, and the paths whose lines may change.

    keeps_comments: whether no comment may vanish; else those in the lines of the paths may.
    """

    edit: Callable[[Document], Document]
    expected: plain_edits.Plain
    paths: list[str]
    keeps_comments: bool = True


def lines_of(text: str, path: str) -> set[int]:
    """The lines that an entry takes, counted from 0, with the one that follows for what is added at its end."""
    tree: Any = yaml.compose(text, LOADER)
    start, end = 0, len(text.splitlines())
    for name in path.split(".") if path else ():
        if isinstance(tree, yaml.SequenceNode):
            tree = tree.value[int(name)]
            start = tree.start_mark.line
        else:
            key, tree = next(pair for pair in tree.value if pair[0].value == name)
            start = key.start_mark.line
        end = tree.end_mark.line
    return set(range(start, end + 1))


def changed_lines(before: str, after: str) -> set[int]:
    """The lines of ``before`` that are not in ``after``, between the common beginning and the common end."""
    from difflib import SequenceMatcher

    old, new = before.splitlines(), after.splitlines()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    changed: set[int] = set()
    for tag, start, end, _, _ in matcher.get_opcodes():
        if tag != "equal":
            changed |= set(range(start, max(end, start + 1)))
    return changed


def comments(text: str) -> Counter[str]:
    return Counter(match.rstrip() for match in COMMENT.findall(text))


def propose(rng: random.Random, data: plain_edits.Plain) -> Case:
    """A random edit that the workflow allows."""
    makers = [set_literal, set_link, wire_port, unwire_port, set_default, rename_a_node, rename_a_parameter, add_a_node]
    makers += [add_a_parameter, remove_a_node, move_a_node, remove_a_parameter]
    while (case := rng.choice(makers)(rng, data)) is None:
        pass
    return case


def set_literal(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    targets = [f"{path}.with.{name}" for path, _, node in plain_edits.nodes(data) for name in node.get("with") or ()]
    if not targets:
        return None
    path, value = rng.choice(targets), rng.choice(VALUES)
    expected = plain_edits.replace(data, path, plain_edits.as_text(value))
    return Case(lambda document: set_value(document, path, value), expected, [path])


def set_link(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    targets = [f"{path}.in.{name}" for path, _, node in plain_edits.nodes(data) for name in node.get("in") or ()]
    targets += [f"outputs.{name}" for name in data["outputs"]]
    path, value = rng.choice(targets), rng.choice(LINKS)
    return Case(lambda document: set_value(document, path, value), plain_edits.replace(data, path, value), [path])


def wire_port(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    targets = [(path, node) for path, _, node in plain_edits.nodes(data) if "use" in node]
    if not targets:
        return None
    path, node = rng.choice(targets)
    settings = list(node.get("with") or ())
    port = rng.choice([*settings, "new_port"])
    if port in (node.get("in") or ()):
        return None
    link = rng.choice(LINKS)
    changed = {**node, "in": {**(node.get("in") or {}), port: link}}
    changed["with"] = {key: value for key, value in (node.get("with") or {}).items() if key != port}
    changed = {key: changed[key] for key in ("use", "in", "with") if changed.get(key)}
    return Case(
        lambda document: set_value(document, f"{path}.in.{port}", link),
        plain_edits.replace(data, path, changed),
        [path],
    )


def unwire_port(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    targets = [
        (path, group, name)
        for path, _, node in plain_edits.nodes(data)
        for group in ("in", "with")
        for name in node.get(group) or ()
    ]
    if not targets:
        return None
    path, group, name = rng.choice(targets)
    last = len(plain_edits.get(data, f"{path}.{group}")) == 1
    removed = f"{path}.{group}" if last else f"{path}.{group}.{name}"
    return Case(
        lambda document: remove_value(document, f"{path}.{group}.{name}"),
        plain_edits.remove(data, removed),
        [path],
        keeps_comments=False,
    )


def set_default(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    if not data.get("params"):
        return None
    name, value = rng.choice(list(data["params"])), rng.choice(VALUES[:-1])
    declared = data["params"][name]
    text = plain_edits.as_text(float(value) if type(value) is int and has_float_default(declared) else value)
    if isinstance(declared, dict) and "default" not in declared:
        entries = {"default": text, **declared}
        expected = plain_edits.replace(data, f"params.{name}", entries)
    else:
        path = f"params.{name}.default" if isinstance(declared, dict) else f"params.{name}"
        expected = plain_edits.replace(data, path, text)
    return Case(lambda document: set_value(document, f"params.{name}.default", value), expected, [f"params.{name}"])


def has_float_default(declared: Any) -> bool:
    """Whether a parameter's type is that of its default, a number with a point or an exponent."""
    default = declared.get("default") if isinstance(declared, dict) else declared
    has_type = isinstance(declared, dict) and "type" in declared
    return (
        isinstance(default, str)
        and not has_type
        and re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", default) is not None
        and not default.lstrip("-").isdigit()
    )


def rename_a_node(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    path, block, _ = rng.choice(list(plain_edits.nodes(data)))
    old, new = path.rpartition(".")[2], f"renamed_{rng.randrange(10**6)}"
    loops = tuple(block.split(".")[1::2])

    def change(link: str, around: tuple[str, ...]) -> str:
        head, dot, rest = link.partition(".")
        return f"{new}{dot}{rest}" if head == old and around[: len(loops)] == loops else link

    expected = plain_edits.map_links(data, change)
    paths = [block.removesuffix(".body"), "outputs"]
    renamed = plain_edits.rename_key(plain_edits.get(expected, block), old, new)
    return Case(lambda document: rename_node(document, path, new), plain_edits.replace(expected, block, renamed), paths)


def rename_a_parameter(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    if not data.get("params"):
        return None
    old, new = rng.choice(list(data["params"])), f"renamed_{rng.randrange(10**6)}"
    changed = plain_edits.map_links(data, lambda link, _: f"params.{new}" if link == f"params.{old}" else link)
    expected = {**changed, "params": plain_edits.rename_key(changed["params"], old, new)}
    return Case(lambda document: rename_parameter(document, old, new), expected, ["params", "nodes", "outputs"])


def add_a_node(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    block = rng.choice(["nodes", *(block for _, block, _ in plain_edits.nodes(data))])
    name = f"added_{rng.randrange(10**6)}"
    node = {
        "use": "guidance.rescale",
        "in": {"prediction": "params.seed", "many": ["a", "b.c"]},
        "with": {"phi": "0.7"},
    }
    expected = plain_edits.replace(data, f"{block}.{name}", node)
    links: dict[str, str | list[str]] = {"prediction": "params.seed", "many": ["a", "b.c"]}
    return Case(
        lambda document: add_node(document, name, "guidance.rescale", links, {"phi": 0.7}, block=block),
        expected,
        [block],
    )


def add_a_parameter(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    name, value = f"added_{rng.randrange(10**6)}", rng.choice(VALUES[:-1])
    entry: Any = plain_edits.as_text(value)
    help = rng.choice(["", "what: it is"])
    expected = {**data, "params": {**data.get("params", {}), name: {"default": entry, "help": help} if help else entry}}
    if "params" not in data:
        keys = ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs")
        expected = {key: expected[key] for key in keys if key in expected}
    return Case(
        lambda document: add_parameter(document, name, value, help=help),
        expected,
        ["params"] if "params" in data else [""],
    )


def is_linked(data: plain_edits.Plain, path: str, block: str) -> bool:
    name, loops = path.rpartition(".")[2], tuple(block.split(".")[1::2])
    seen = False

    def change(link: str, around: tuple[str, ...]) -> str:
        nonlocal seen
        seen |= link.partition(".")[0] == name and around[: len(loops)] == loops
        return link

    plain_edits.map_links(data, change)
    return seen


def remove_a_node(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    free = [path for path, block, _ in plain_edits.nodes(data) if not is_linked(data, path, block)]
    free = [path for path in free if len(plain_edits.get(data, path.rpartition(".")[0])) > 1]
    if not free:
        return None
    path = rng.choice(free)
    return Case(
        lambda document: remove_node(document, path), plain_edits.remove(data, path), [path], keeps_comments=False
    )


def move_a_node(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    entries = list(plain_edits.nodes(data))
    blocks = sorted({block for _, block, _ in entries})
    free = [(path, block) for path, block, _ in entries if not is_linked(data, path, block)]
    free = [(path, block) for path, block in free if len(plain_edits.get(data, block)) > 1]
    names = Counter(path.rpartition(".")[2] for path, _, _ in entries)
    free = [(path, block) for path, block in free if names[path.rpartition(".")[2]] == 1]
    choices = [
        (path, to) for path, block in free for to in blocks if to != block and not f"{to}.".startswith(f"{path}.")
    ]
    if not choices:
        return None
    path, block = rng.choice(choices)
    node = plain_edits.get(data, path)
    expected = plain_edits.replace(plain_edits.remove(data, path), f"{block}.{path.rpartition('.')[2]}", node)
    return Case(lambda document: move_node(document, path, block), expected, ["nodes"])


def remove_a_parameter(rng: random.Random, data: plain_edits.Plain) -> Case | None:
    used: set[str] = set()
    plain_edits.map_links(data, lambda link, _: used.add(link) or link)  # type: ignore[func-returns-value]
    free = [name for name in data.get("params", {}) if f"params.{name}" not in used]
    if not free:
        return None
    name = rng.choice(free)
    path = f"params.{name}" if len(data["params"]) > 1 else "params"
    return Case(
        lambda document: remove_parameter(document, name), plain_edits.remove(data, path), [path], keeps_comments=False
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_edit_changes_its_lines_alone_and_gives_the_edited_data(path: Path) -> None:
    edit_at_random(path.read_text(), random.Random(path.name), 5)


@pytest.mark.slow
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_many_edits_change_their_lines_alone(path: Path, newline: str) -> None:
    edit_at_random(path.read_text().replace("\n", newline), random.Random(path.name + newline), 60)


def edit_at_random(text: str, rng: random.Random, count: int) -> None:
    document = Document.parse(text, "workflow.yaml")
    for _ in range(count):
        case = propose(rng, plain_edits.load(document.text))
        try:
            edited = case.edit(document)
        except WorkflowError as error:  # a link to a value of its loop would mean a value of another
            if {problem.code for problem in error.problems} != {"bad-move"}:
                raise
            continue
        check(document.text, edited.text, case)
        if rng.random() < 0.3:  # some edits stay, so that later ones meet their style
            document = edited


def check(before: str, after: str, case: Case) -> None:
    assert plain_edits.order(plain_edits.load(after)) == plain_edits.order(case.expected)
    assert after.count("\r") == (after.count("\n") if "\r\n" in before else 0)
    allowed = set[int]().union(*(lines_of(before, path) for path in case.paths))
    assert changed_lines(before, after) <= allowed
    lines = before.splitlines()
    vanished = comments(before) - comments(after)
    if not case.keeps_comments:
        vanished -= comments("\n".join(lines[i] for i in sorted(allowed)))
    assert not vanished
    assert not comments(after) - comments(before)

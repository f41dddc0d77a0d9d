"""A choice: its type is the join of its branches' types, and its branches are for values that ``when`` can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from guidegraph.graph.choices import label_of
from guidegraph.graph.ir import OTHERWISE, WHEN, Choice, Op, Output, Source
from guidegraph.graph.link_rule import have_common, join
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.parsed import ParsedChoice
from guidegraph.graph.scope import Entry, Scope, Typed
from guidegraph.graph.types import PortType, SequenceOf, Tensor
from guidegraph.graph.yamltree import Scalar, short

if TYPE_CHECKING:
    from guidegraph.graph.elaborate import Elaborator

VALUES = (bool, int, str)
TAKES = PortType((*VALUES, Tensor))
_ANY_VALUE = "a text, a whole number, true or false"


def elaborate_choice(e: Elaborator, choice: ParsedChoice, scope: Scope, key: str) -> tuple[dict[str, Op], Entry]:
    """The choice as one operation with one output."""
    where = f"{choice.path}.choose"
    given = _decider(e, choice, scope, f"{where}.{WHEN}")
    values = _values(e, choice, given, where)
    branches = {label: e.link(link, scope, path) for label, link, path in _links(choice, where)}
    kind = _joined(e, choice, branches, where)
    if kind is None:
        return {}, Entry(broken=True)
    entry = Entry({"out": Typed(Output(key, "out"), kind)})
    if given is None or choice.when is None or values is None or choice.unread:
        return {}, entry
    port = Port(WHEN, _annotation(values, choice.otherwise is not None), TAKES, setting=True)
    fitting = e.fitting(given, port, choice.when, scope, f"{where}.{WHEN}")
    if fitting is None:
        return {}, entry
    inputs: dict[str, Source] = {label: found.source for label, found in branches.items() if found}
    kinds = {label: found.type for label, found in branches.items() if found}
    marks = {label: link.mark for label, link, _ in _links(choice, where)} | {WHEN: choice.when.mark}
    spec = choice_spec(kinds, port, kind)
    return {key: Choice(key, spec, inputs, {WHEN: fitting[0]}, choice.mark, marks=marks)}, entry


def _decider(e: Elaborator, choice: ParsedChoice, scope: Scope, where: str) -> Typed | None:
    """What a choice is made by; None where it cannot be, which is reported."""
    found = e.link(choice.when, scope, where) if choice.when is not None else None
    if found is None or choice.when is None or any(map(_decides, found.type.alternatives)):
        return found
    message = f"'{choice.when.text}' gives {found.type}; a choice is made by {_ANY_VALUE}"
    e.add(choice.when.mark, "type-mismatch", message, where)
    return None


def _decides(kind: type | SequenceOf) -> bool:
    """Whether values of a type may be texts, whole numbers, true or false, or a tensor of one such number."""
    if isinstance(kind, SequenceOf):
        return False
    if issubclass(kind, Tensor):
        axes: tuple[int | str, ...] | None = getattr(kind, "axes", None)
        return axes is None or len(axes) < 2
    return kind is object or kind in VALUES


def choice_spec(kinds: Mapping[str, PortType], when: Port, kind: PortType) -> NodeSpec:
    """The schema of a choice with branches of these types."""

    def choose(*branches: Any, when: Any) -> Any:
        """The value of one branch: only that one is computed."""
        label = label_of(when)
        known = [*kinds]
        return branches[known.index(label if label in known else OTHERWISE)]

    ports = {label: Port(label, Any, branch) for label, branch in kinds.items()}
    return NodeSpec("choose", choose, ports, {WHEN: when}, {"out": kind}, False, host=True, runtime=True)


def _links(choice: ParsedChoice, where: str) -> list[tuple[str, Scalar, str]]:
    """The branches that could be read: label, link, and the path that errors name."""
    found = [(name, link, f"{where}.of.{short(name)}") for name, (_, link) in choice.branches.items() if link]
    if choice.otherwise is not None:
        found.append((OTHERWISE, choice.otherwise, f"{where}.{OTHERWISE}"))
    return found


def _values(e: Elaborator, choice: ParsedChoice, given: Typed | None, where: str) -> list[bool | int | str] | None:
    """The values that have a branch; None where one is wrong, which is reported."""
    kinds = given.type.alternatives if given else ()
    values: list[bool | int | str] = []
    whole = True
    for name, (label, _) in choice.branches.items():
        value = label.text if kinds == (str,) else label.value
        wrong = not isinstance(value, VALUES) or label_of(value) != name
        wrong |= kinds in ((bool,), (int,)) and type(value) is not kinds[0]
        if wrong:
            expected = "true or false" if kinds == (bool,) else "a whole number" if kinds == (int,) else _ANY_VALUE
            e.add(label.mark, "bad-value", f"a branch is for {expected} here; found '{short(name)}'", f"{where}.of")
            whole = False
        else:
            assert isinstance(value, VALUES)
            values.append(value)
    missing = {"true", "false"} - choice.branches.keys()
    if whole and kinds == (bool,) and missing and choice.otherwise is None and not choice.unread:
        message = f"there is no branch for {min(missing)}; add it, or 'otherwise'"
        e.add(choice.mark, "missing-key", message, f"{where}.of")
        return None
    return values if whole else None


def _joined(e: Elaborator, choice: ParsedChoice, branches: Mapping[str, Typed | None], where: str) -> PortType | None:
    """The type that holds what every branch gives; None where a branch is wrong or they have none in common."""
    links = {label: (link, path) for label, link, path in _links(choice, where)}
    kind: PortType | None = None
    first = ""
    for label, found in branches.items():
        if found is None:
            return None
        given = found.loose or found.widest
        if kind is None:
            kind, first = given, label
        elif have_common(kind, given):
            kind = join(kind, given)
        else:
            link, path = links[label]
            message = f"branch '{label}' gives {given}, branch '{first}' gives {kind}; a choice gives one type"
            e.add(link.mark, "type-mismatch", message, path)
            return None
    return None if len(links) < len(choice.branches) else kind


def _annotation(values: list[bool | int | str], otherwise: bool) -> Any:
    """What validates a value of ``when`` that is known before the run."""
    return bool | int | str if otherwise else Literal[tuple(values)]

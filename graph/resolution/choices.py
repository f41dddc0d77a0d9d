"""Resolution of choices: the type is the join of the branches' types; each branch is for a value of ``when``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from guidegraph.graph.ir import Choice, Op
from guidegraph.graph.language.syntax import ParsedChoice
from guidegraph.graph.language.yaml_tree import Scalar, shorten
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.planning.passes import branch_label
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.block_resolver import BlockContext
from guidegraph.graph.resolution.link_rule import have_common_type, join
from guidegraph.graph.resolution.ports import PortResolver
from guidegraph.graph.resolution.scope import ResolvedNode, Scope, TypedSource
from guidegraph.graph.sources import Output, Param, Source
from guidegraph.graph.types import PortType, SequenceOf, Tensor
from guidegraph.graph.values.simple_values import SameType
from guidegraph_runtime.declare.choice_words import CHOOSE, OTHERWISE, WHEN

VALUES = (bool, int, str)
TAKES = PortType((*VALUES, Tensor))
_ANY_VALUE = "a text, a whole number, true or false"


def resolve_choice(
    resolver: PortResolver, choice: ParsedChoice, scope: Scope, key: str, _block: BlockContext
) -> tuple[dict[str, Op], ResolvedNode]:
    """Resolve a choice to one operation with one output."""
    path = f"{choice.path}.choose"
    decider = _find_decider(resolver, choice, scope, f"{path}.{WHEN}")
    values = _read_values(resolver, choice, decider, path)
    branches = {
        label: resolver.find_source(link, scope, link_path) for label, link, link_path in _list_links(choice, path)
    }
    kind = _join_branches(resolver, choice, branches, path)
    if kind is None:
        return {}, ResolvedNode(broken=True)
    entry = ResolvedNode({"out": TypedSource(Output(key, "out"), kind)})
    if decider is None or choice.when is None or values is None or choice.unread:
        return {}, entry
    annotation: Any = bool | int | str  # validates a value of `when` that is known before the run
    if choice.otherwise is None:
        annotation = Annotated[Literal[tuple(values)], SameType(tuple(values))]
    port = Port(WHEN, annotation, TAKES, setting=True)
    connected = resolver.connect_source(decider, port, choice.when, scope, f"{path}.{WHEN}")
    if connected is None:
        return {}, entry
    inputs: dict[str, Source] = {label: typed.source for label, typed in branches.items() if typed}
    kinds = {label: typed.type for label, typed in branches.items() if typed}
    marks = {label: link.mark for label, link, _ in _list_links(choice, path)} | {WHEN: choice.when.mark}
    spec = make_choice_spec(kinds, port, kind)
    return {key: Choice(key, spec, inputs, {WHEN: connected[0]}, choice.mark, marks=marks)}, entry


def _find_decider(resolver: PortResolver, choice: ParsedChoice, scope: Scope, path: str) -> TypedSource | None:
    """The source of ``when``; None if it is invalid, which is reported."""
    typed = resolver.find_source(choice.when, scope, path) if choice.when is not None else None
    if typed is None or choice.when is None:
        return typed
    # The value of a parameter is checked before the run; a node that may give a float would fail in it.
    kind = typed.actual_type or typed.type
    is_float = float in kind.alternatives and not isinstance(typed.source, Param)
    if any(map(_can_decide, kind.alternatives)) and not is_float:
        return typed
    message = f"'{choice.when.text}' gives {kind}; a choice is made by {_ANY_VALUE}"
    resolver.report(choice.when.mark, "type-mismatch", message, path)
    return None


def _can_decide(kind: type | SequenceOf) -> bool:
    """Whether a choice can depend on this type: text, int, bool, or a tensor that may hold one of the latter.

    A type that names its tensors, such as ``Timesteps``, holds floats unless it is declared as integer.
    """
    if isinstance(kind, SequenceOf):
        return False
    if issubclass(kind, Tensor):
        tensor: Any = kind  # for a type checker, Tensor is torch's
        return kind is Tensor or (tensor.integer and (tensor.axes is None or len(tensor.axes) < 2))
    return kind is object or kind in VALUES


def make_choice_spec(kinds: Mapping[str, PortType], when: Port, kind: PortType) -> NodeSpec:
    """The node specification of a choice with branches of these types."""

    def choose(*branches: Any, when: Any) -> Any:
        """The value of one branch: only that one is computed."""
        label = branch_label(when)
        labels = [*kinds]
        return branches[labels.index(label if label in labels else OTHERWISE)]

    ports = {label: Port(label, Any, branch) for label, branch in kinds.items()}
    return NodeSpec(CHOOSE, choose, ports, {WHEN: when}, {"out": kind}, False, host=True, runtime=True)


def _list_links(choice: ParsedChoice, path: str) -> list[tuple[str, Scalar, str]]:
    """The valid branches: label, link, and path for messages."""
    links = [(name, link, f"{path}.of.{shorten(name)}") for name, (_, link) in choice.branches.items() if link]
    if choice.otherwise is not None:
        links.append((OTHERWISE, choice.otherwise, f"{path}.{OTHERWISE}"))
    return links


def _read_values(
    resolver: PortResolver, choice: ParsedChoice, decider: TypedSource | None, path: str
) -> list[bool | int | str] | None:
    """The values that have a branch; None if one is invalid, which is reported."""
    kinds = decider.type.alternatives if decider else ()
    values: list[bool | int | str] = []
    is_valid = True
    for name, (label, _) in choice.branches.items():
        value = label.text if kinds == (str,) else label.value
        wrong = not isinstance(value, VALUES) or branch_label(value) != name
        wrong |= kinds in ((bool,), (int,)) and type(value) is not kinds[0]
        if wrong:
            expected = "true or false" if kinds == (bool,) else "a whole number" if kinds == (int,) else _ANY_VALUE
            actual = f"'{shorten(label.text)}'"
            if not label.plain and not isinstance(replace(label, plain=True).value, str):
                actual = f"the text {actual}: write it without quotes"
            message = f"a branch is for {expected} here; found {actual}"
            resolver.report(label.mark, "bad-value", message, f"{path}.of")
            is_valid = False
        else:
            assert isinstance(value, VALUES)
            values.append(value)
    missing = {"true", "false"} - choice.branches.keys()
    if is_valid and kinds == (bool,) and missing and choice.otherwise is None and not choice.unread:
        message = f"there is no branch for {min(missing)}; add it, or 'otherwise'"
        resolver.report(choice.mark, "missing-key", message, f"{path}.of")
        return None
    return values if is_valid else None


def _join_branches(
    resolver: PortResolver, choice: ParsedChoice, branches: Mapping[str, TypedSource | None], choice_path: str
) -> PortType | None:
    """The common type of all branches; None if a branch is invalid or the types have nothing in common."""
    links = {label: (link, path) for label, link, path in _list_links(choice, choice_path)}
    kind: PortType | None = None
    first = ""
    for label, typed in branches.items():
        if typed is None:
            return None
        branch_type = typed.possible_type or typed.widest_type
        if kind is None:
            kind, first = branch_type, label
        elif have_common_type(kind, branch_type):
            kind = join(kind, branch_type)
        else:
            link, path = links[label]
            message = f"branch '{label}' gives {branch_type}, branch '{first}' gives {kind}; a choice gives one type"
            resolver.report(link.mark, "type-mismatch", message, path)
            return None
    return None if len(links) < len(choice.branches) else kind

"""Effects: the files that a workflow reads, writes, or loads code from, as its nodes declare them.

A port or setting of type `Path` names what its node reads. ``Written`` in its annotation says that the node writes it,
``RunsCode`` that loading it may run code. A training writes its checkpoint folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call, Choice, Item, Loop, Op, Output, Param, Source, Sources, walk
from guidegraph.graph.ir import Literal as Constant
from guidegraph.graph.node import Port
from guidegraph.graph.types import Beside, PortType, RunsCode, SequenceOf, Written

Kind: TypeAlias = Literal["read", "write", "code"]


@dataclass(frozen=True)
class Effect:
    """One file or folder that one node reads, writes, or loads code from.

    path: absolute; ``None`` where another node computes it, so that it is known only in the run. node: the node's
    path in the workflow; use: its id. param: the workflow's parameter that gives the path, or "".
    """

    kind: Kind
    path: Path | None
    node: str
    use: str
    setting: str
    mark: Mark
    param: str = ""


def list_effects(ops: Mapping[str, Op], values: Mapping[str, Any]) -> list[Effect]:
    """All effects of a workflow's operations, those in the bodies of loops too, in their order.

    values: of the parameters, by name. A parameter without a value has no effect yet.
    """
    by_key = {op.key: op for op in walk(ops)}
    effects: list[Effect] = []
    for op in by_key.values():
        if isinstance(op, Choice):
            continue  # a path that it gives is listed at the node which uses it
        if isinstance(op, Call):
            effects += _of_call(op, by_key, values)
        elif isinstance(op, Loop) and op.training is not None and op.training.checkpoint is not None:
            for path, param in _paths(op.training.checkpoint, by_key, values):
                effects.append(Effect("write", path, f"nodes.{op.key}", "loop", "checkpoint", op.mark, param))
    return list(dict.fromkeys(effects))


def kind_of(port: Port) -> Kind | None:
    """The effect of a port or setting; ``None`` for one that names no file."""
    if not _takes_path(port.type):
        return None
    marks = list(_marks(port.annotation))
    if any(isinstance(mark, RunsCode) for mark in marks):
        return "code"
    return "write" if any(isinstance(mark, Written) for mark in marks) else "read"


def writes(port: Port) -> bool:
    """Whether the node writes the file that the port names."""
    return kind_of(port) == "write"


def _of_call(call: Call, by_key: Mapping[str, Op], values: Mapping[str, Any]) -> Iterator[Effect]:
    for name, sources in (*call.inputs.items(), *call.settings.items()):
        port = call.spec.port(name)
        kind = kind_of(port) if port is not None else None
        if port is None or kind is None:
            continue
        mark = call.marks.get(name, call.mark)
        for path, param in _paths(sources, by_key, values):
            effect = Effect(kind, path, f"nodes.{call.key}", call.spec.id, name, mark, param)
            yield effect
            for companion in companions(port, path):
                yield Effect("read", companion, effect.node, effect.use, name, mark, param)


def companions(port: Port, path: Path | None) -> Iterator[Path]:
    """The files beside ``path`` that the node reads too."""
    for mark in _marks(port.annotation):
        if isinstance(mark, Beside) and path is not None and (companion := path.parent / mark.name).exists():
            yield companion


def _paths(sources: Sources, by_key: Mapping[str, Op], values: Mapping[str, Any]) -> Iterator[tuple[Path | None, str]]:
    """The paths that sources give, each with the parameter that it comes from; of a choice, those of all branches."""
    if isinstance(sources, tuple):
        for each in sources:
            yield from _paths(each, by_key, values)
        return
    source: Source = sources
    if isinstance(source, Output) and isinstance(choice := by_key.get(source.op), Choice):
        yield from _paths(tuple(map(choice.branch, choice.inputs)), by_key, values)
        return
    if isinstance(source, Item) and source.field is None:
        loop = by_key[source.loop]
        over = loop.over if isinstance(loop, Loop) else None
        if isinstance(over, (Constant, Param)):
            source = over
    if isinstance(source, Constant):
        yield from ((path, "") for path in _flat(source.value))
    elif isinstance(source, Param):
        if source.name in values:
            yield from ((path, source.name) for path in _flat(values[source.name]))
    else:
        yield None, ""


def _flat(value: object) -> Iterator[Path | None]:
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _flat(entry)
    elif isinstance(value, (str, Path)):
        yield Path(value).absolute()
    elif value is not None:
        yield None


def _takes_path(kind: PortType) -> bool:
    return any(
        _takes_path(alternative.element) if isinstance(alternative, SequenceOf) else alternative is Path
        for alternative in kind.alternatives
    )


def _marks(annotation: Any) -> Iterator[object]:
    """The metadata of ``Annotated`` anywhere in an annotation."""
    yield from getattr(annotation, "__metadata__", ())
    parts: Iterable[Any] = get_args(annotation)
    for part in parts:
        yield from _marks(part)

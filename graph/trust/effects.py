"""Effects: the files that a workflow reads, writes, or loads code from, as declared by its nodes.

A node reads the file named by a port or setting of type `Path`. ``Written`` in the annotation: the node writes it;
``RunsCode``: loading it may run code. A loop writes its ``folders``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call, Op, walk
from guidegraph.graph.origins import Origins, list_origins, trace_origins
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Literal as Constant
from guidegraph.graph.sources import Param, Sources, list_sources
from guidegraph.graph.types import Beside, RunsCode, Written

EffectKind: TypeAlias = Literal["read", "write", "code"]


@dataclass(frozen=True)
class Effect:
    """One file or folder that one node reads, writes, or loads code from.

    path: absolute; ``None`` if another node computes it, so that it is unknown before the run. node: the node's path
    in the workflow; use: its id. param: the parameter that gives the path, or "".
    """

    kind: EffectKind
    path: Path | None
    node: str
    use: str
    setting: str
    mark: Mark
    param: str = ""


def list_effects(ops: Mapping[str, Op], values: Mapping[str, Any]) -> list[Effect]:
    """All effects of a workflow's operations, loop bodies included, in order.

    values: of the parameters, by name. A parameter without a value has no effect yet.
    """
    # The paths of a choice are listed at the node that uses them.
    touching = [op for op in walk(ops) if op.has_blocks or (op.spec.path_ports and not op.has_branches)]
    origins = trace_origins(ops, items=True) if touching else {}
    effects: list[Effect] = []
    for op in touching:
        if not op.has_blocks:
            effects += _list_call_effects(op, origins, values)
            continue
        for option, (folder, _) in op.folders().items():
            for path, param in _list_paths(folder, origins, values):
                effects.append(Effect("write", path, f"nodes.{op.key}", "loop", option, op.mark, param))
    return list(dict.fromkeys(effects))


def classify_effect(port: Port) -> EffectKind | None:
    """The effect of a port or setting; ``None`` if its type is not a path."""
    if not port.type.is_path:
        return None
    marks = list(_list_annotation_marks(port.annotation))
    if any(isinstance(mark, RunsCode) for mark in marks):
        return "code"
    return "write" if any(isinstance(mark, Written) for mark in marks) else "read"


def is_written(port: Port) -> bool:
    """Whether the node writes the file named by the port."""
    return classify_effect(port) == "write"


def _list_call_effects(call: Call, origins: Origins, values: Mapping[str, Any]) -> Iterator[Effect]:
    for name, sources in call.arguments():
        if name not in call.spec.path_ports:
            continue
        port = call.spec.ports[name]
        kind = classify_effect(port)
        assert kind is not None
        mark = call.marks.get(name, call.mark)
        for path, param in _list_paths(sources, origins, values):
            effect = Effect(kind, path, f"nodes.{call.key}", call.spec.id, name, mark, param)
            yield effect
            for companion in list_companions(port, path):
                yield Effect("read", companion, effect.node, effect.use, name, mark, param)


def list_companions(port: Port, path: Path | None) -> Iterator[Path]:
    """The existing files beside ``path`` that the node reads too (``Beside``)."""
    for mark in _list_annotation_marks(port.annotation):
        if isinstance(mark, Beside) and path is not None and (companion := path.parent / mark.name).exists():
            yield companion


def _list_paths(sources: Sources, origins: Origins, values: Mapping[str, Any]) -> Iterator[tuple[Path | None, str]]:
    """The paths that sources give, each with its parameter or ""; a choice gives the paths of all branches."""
    for source in list_sources(sources):
        for origin, _ in list_origins(source, origins):
            match origin:
                case Constant(value):
                    yield from ((path, "") for path in _flatten_paths(value))
                case Param(name):
                    yield from ((path, name) for path in (_flatten_paths(values[name]) if name in values else ()))
                case _:
                    yield None, ""


def _flatten_paths(value: object) -> Iterator[Path | None]:
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _flatten_paths(entry)
    elif isinstance(value, (str, Path)):
        yield Path(value).absolute()
    elif value is not None:
        yield None


def _list_annotation_marks(annotation: Any) -> Iterator[object]:
    """The metadata of every ``Annotated`` in an annotation."""
    yield from getattr(annotation, "__metadata__", ())
    parts: Iterable[Any] = get_args(annotation)
    for part in parts:
        yield from _list_annotation_marks(part)

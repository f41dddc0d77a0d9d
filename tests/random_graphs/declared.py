"""Sources of links in random graphs, with their declared types and the types of their values."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image, Label, Latent, Mask, Sample, Timesteps
from tests.random_graphs.annotations import can_link, element, is_subtype, may_fit, members
from tests.random_graphs.typed_node import Affine, Bounds, Invertible, Row

SURE_ROWS = (Image, Latent, Mask, Label, Timesteps)
"""Tensor types whose values here all have the same shape, so that a loop can run over them and stack them."""


@dataclass(frozen=True)
class Source:
    """A source: the text of a link, its declared type and the type of its values.

    caller_type: for a parameter of a sub-workflow, the declared type of the source that its caller links.
    """

    link: str
    declared: Any
    actual: Any
    caller_type: Any = Any

    def is_right_for(self, port: Any) -> bool:
        """Whether a link to a port is valid, and its values fit."""
        return can_link(self.declared, port) and can_link(self.caller_type, port) and is_subtype(self.actual, port)

    def may_feed(self, port: Any, misfits: bool) -> bool:
        """Whether a link to a port may fit, or must be refused; `misfits`: also where only the value decides."""
        decided_by_value = can_link(self.declared, port) and not is_subtype(self.declared, port)
        return may_fit(self.declared, port) and (misfits or not decided_by_value or is_subtype(self.actual, port))


def parameter_type(parameter: Any, kind: Any) -> Any:
    """The declared type of a parameter."""
    if isinstance(parameter, dict) and "type" in parameter:
        if parameter.get("default", 0) is None:
            return kind | None if kind is not Any else Any
        return kind
    default = parameter["default"] if isinstance(parameter, dict) else parameter
    return Sequence[Any] if isinstance(default, list) else type(default)


def declarable(source: Source, wild: bool, misfits: bool) -> list[Any]:
    """Types for the declaration of a parameter that is linked to a source."""
    kinds: list[Any] = [source.declared, Any]
    if isinstance(source.declared, type) and issubclass(source.declared, Tensor):
        kinds += [cls for cls in source.declared.__mro__ if issubclass(cls, Tensor)]
    if isinstance(source.actual, type):
        kinds.append(source.actual)
    if not wild:
        return [kind for kind in kinds if kind is not NoneType and source.is_right_for(kind)]
    kinds += [kind for kind in (Image, Sample, int, float, str) if source.may_feed(kind, misfits)]
    return [kind for kind in kinds if kind is not NoneType]


def can_run(declared: Any) -> bool:
    """Whether a loop can run over every value of a type."""
    return all(
        kind in (Any, int) or element(kind) is not None or (isinstance(kind, type) and issubclass(kind, Tensor))
        for kind in members(declared)
    )


def item_sources(link: str, over: Source) -> list[Source]:
    """The sources of a loop's item: the item itself, and the fields of a NamedTuple."""
    kind = over.declared if element(over.declared) is not None or over.declared is Any else over.actual
    declared = int if over.declared is int else (element(kind) or Any) if kind is not Any else Any
    actual = int if over.actual is int else element(over.actual) or Tensor
    if any(isinstance(m, type) and issubclass(m, Tensor) for m in members(over.declared)):
        declared = Tensor
    sources = [Source(link, declared, actual)]
    if isinstance(declared, type) and hasattr(declared, "_fields"):
        hints = typing.get_type_hints(declared)
        sources += [Source(f"{link}.{name}", hints[name], hints[name]) for name in hints]
    return sources


def find_collected_types(source: Source) -> tuple[Any, Any]:
    """The declared type of collected values, and the type of the actual ones."""
    kinds = members(source.declared)
    tensors = [kind is Any or (isinstance(kind, type) and issubclass(kind, Tensor)) for kind in kinds]
    if all(tensors) and Any not in kinds:
        return Tensor, Tensor if source.actual in SURE_ROWS else Any
    if any(tensors):
        return Any, Any
    if any(kind is Bounds or getattr(kind, "leaf_axes", None) is not None for kind in kinds):
        return (source.declared if len(kinds) == 1 else Any), Any
    return Sequence[source.declared], Sequence[source.declared]  # type: ignore[name-defined]


def type_text(annotation: Any) -> str:
    """A type in the syntax of workflows."""
    names = {NoneType: "None", Any: "Any"}
    return " | ".join(
        f"Sequence[{type_text(element(kind))}]" if element(kind) is not None else names.get(kind) or kind.__name__
        for kind in members(annotation)
    )


def actual_type(id: str, settings: dict[str, Any]) -> Any:
    """The type of the output of a node without ports, if narrower than its annotation; else None."""
    present = settings.get("present", True)
    kinds = {"int": int, "word": str, "image": Image, "list": Sequence[float], "none": NoneType}
    return {
        "rand.no_int": NoneType,
        "rand.maybe_int": int,
        "rand.maybe_sample": Latent if present else NoneType,
        "rand.int_or_word": str if settings.get("word", False) else int,
        "rand.scale": Timesteps if settings.get("rows", False) else float,
        "rand.image_as_tensor": Image,
        "rand.latent_as_sample": Latent,
        "rand.vector_as_tensor": Timesteps,
        "rand.anything": kinds.get(settings.get("kind", "int")),
    }.get(id)


TYPES: tuple[Any, ...] = (Affine, Bounds, Invertible, Row)

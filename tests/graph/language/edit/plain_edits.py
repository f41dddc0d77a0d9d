"""The same edits on a workflow as plain dictionaries, written without the code under test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Plain = dict[str, Any]
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def load(text: str) -> Plain:
    """A workflow with every scalar as its text."""
    data: Plain = yaml.load(text, LOADER)
    return data


def as_text(value: Any) -> Any:
    """A value as ``load`` reads it."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return ".inf"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def order(data: Any) -> Any:
    """The data with the order of its keys, which equality of dictionaries ignores."""
    if isinstance(data, dict):
        return [(key, order(value)) for key, value in data.items()]
    return [order(item) for item in data] if isinstance(data, list) else data


def nodes(data: Plain) -> Iterator[tuple[str, str, Plain]]:
    """The path, the block's path and the data of each node, those in loops included."""

    def walk(block: Plain, path: str) -> Iterator[tuple[str, str, Plain]]:
        for name, node in block.items():
            yield f"{path}.{name}", path, node
            if isinstance(node.get("body"), dict):
                yield from walk(node["body"], f"{path}.{name}.body")

    yield from walk(data["nodes"], "nodes")


def get(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data


def map_links(data: Plain, change: Callable[[str, tuple[str, ...]], str]) -> Plain:
    """Change each link. change: gets the link and the loops around it whose names it sees."""

    def option(value: Any, loops: tuple[str, ...]) -> Any:
        return change(value, loops) if isinstance(value, str) and value.startswith("params.") else value

    def by_name(group: Any, loops: tuple[str, ...]) -> Any:
        if not isinstance(group, dict):
            return group
        return {
            key: [change(item, loops) for item in value] if isinstance(value, list) else change(value, loops)
            for key, value in group.items()
        }

    def in_node(node: Plain, loops: tuple[str, ...], name: str) -> Plain:
        inner = (*loops, name)
        result = {}
        for key, value in node.items():
            if key in ("in", "carry"):
                value = by_name(value, loops)
            elif key in ("next", "collect"):
                value = by_name(value, inner)
            elif key == "body":
                value = in_block(value, inner)
            elif key == "loop":
                value = {k: change(v, loops) if k == "over" else v for k, v in value.items()}
            elif key == "train":
                value = [
                    {k: change(v, inner) if k == "loss" else option(v, inner) for k, v in e.items()} for e in value
                ]
            elif key == "preview":
                value = {
                    k: by_name(v, inner) if k == "in" else change(v, inner) if k == "every" else v
                    for k, v in value.items()
                }
            elif key == "choose":
                value = {k: by_name(v, loops) if k == "of" else change(v, loops) for k, v in value.items()}
            elif key == "checkpoint":
                value = by_name(value, loops)
            elif key in ("steps", "precision", "seed"):
                value = change(value, loops)
            result[key] = value
        return result

    def in_block(block: Plain, loops: tuple[str, ...]) -> Plain:
        return {name: in_node(node, loops, name) for name, node in block.items()}

    return {**data, "nodes": in_block(data["nodes"], ()), "outputs": by_name(data["outputs"], ())}


def rename_key(mapping: Plain, old: str, new: str) -> Plain:
    return {new if key == old else key: value for key, value in mapping.items()}


def replace(data: Any, path: str, value: Any) -> Any:
    """A copy with another value at a path that exists, or as the last entry of one that does."""
    name, _, rest = path.partition(".")
    if isinstance(data, list):
        return [
            replace(item, rest, value) if rest and str(i) == name else value if str(i) == name else item
            for i, item in enumerate(data)
        ]
    return {**data, name: replace(data[name], rest, value) if rest else value}


def remove(data: Any, path: str) -> Any:
    name, _, rest = path.partition(".")
    if rest:
        return {**data, name: remove(data[name], rest)}
    return {key: value for key, value in data.items() if key != name}

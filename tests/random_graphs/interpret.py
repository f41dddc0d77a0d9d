"""A naive interpreter of workflows: it reads the YAML and calls the nodes one by one, with nothing of the engine.

No passes, no cache, no plan, and every port is computed. What it gives is what an engine has to give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from tests.random_graphs.generate import RandomGraph

Values = dict[str, Any]
"""Values by the text of the link that names them."""


def interpret(graph: RandomGraph) -> dict[str, Any]:
    """The outputs of a workflow that is right, by name."""
    return _Interpreter(graph).workflow(graph.text, graph.params)


@dataclasses.dataclass
class _Interpreter:
    graph: RandomGraph

    def workflow(self, text: str, given: Mapping[str, Any]) -> dict[str, Any]:
        tree = yaml.load(text, yaml.CSafeLoader)
        known: Values = {}
        for name, declared in tree.get("params", {}).items():
            default = declared.get("default") if isinstance(declared, dict) else declared
            known[f"params.{name}"] = given.get(name, default)
        self.region(tree["nodes"], known)
        return {name: known[link] for name, link in tree["outputs"].items()}

    def region(self, nodes: Mapping[str, Any], known: Values) -> None:
        """Compute all nodes of a region, whose values join those that are known."""
        for name, node in nodes.items():
            if "loop" in node:
                known.update(self.loop(name, node, known))
            elif node["use"].endswith(".yaml"):
                given = {**node.get("with", {}), **self.linked(node, known)}
                outputs = self.workflow(self.graph.files[node["use"].removeprefix("./")], given)
                known.update({f"{name}.{key}": value for key, value in outputs.items()})
            else:
                known.update(self.call(name, node, known))

    def linked(self, node: Mapping[str, Any], known: Values) -> dict[str, Any]:
        links = node.get("in", {})
        return {
            port: [known[one] for one in link] if isinstance(link, list) else known[link]
            for port, link in links.items()
        }

    def call(self, name: str, node: Mapping[str, Any], known: Values) -> Values:
        spec = self.graph.registry.nodes[node["use"]]
        result = spec.function(**self.linked(node, known), **node.get("with", {}))
        if spec.named_outputs:
            return {f"{name}.{key}": getattr(result, key) for key in spec.outputs}
        return {name: result, f"{name}.out": result}

    def loop(self, name: str, node: Mapping[str, Any], known: Values) -> Values:
        over, item = known[node["loop"]["over"]], node["loop"]["as"]
        carry = {key: known[link] for key, link in node.get("carry", {}).items()}
        kept: dict[str, list[Any]] = {key: [] for key in node.get("collect", {})}
        for i, entry in enumerate(_entries(over)):
            inside = {**known, "loop.index": i, f"loop.{item}": entry}
            inside |= {f"loop.{item}.{field}": getattr(entry, field) for field in getattr(entry, "_fields", ())}
            inside |= {f"carry.{key}": value for key, value in carry.items()}
            self.region(node["body"], inside)
            for key, link in node.get("collect", {}).items():
                kept[key].append(inside[link])
            carry = {key: inside[link] for key, link in node.get("next", {}).items()}
        stacked = {
            key: torch.empty(0) if not values and (name, key) in self.graph.tensor_collects else _stacked(values)
            for key, values in kept.items()
        }
        return {f"{name}.{key}": value for key, value in {**carry, **stacked}.items()}


def _entries(over: Any) -> list[Any]:
    if isinstance(over, int):
        return list(range(over))
    if isinstance(over, torch.Tensor):
        return [row.reshape(1) if over.ndim == 1 else row for row in over]
    return [over[i] for i in range(len(over))]


def _stacked(values: Sequence[Any]) -> Any:
    """Tensors of one shape with an axis before the others, field by field in structures; else the list."""
    first = values[0] if values else None
    if isinstance(first, torch.Tensor):
        alike = all(isinstance(v, torch.Tensor) and v.shape == first.shape and v.dtype == first.dtype for v in values)
        return torch.stack(list(values)) if alike else list(values)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        columns = {f.name: _stacked([getattr(v, f.name) for v in values]) for f in dataclasses.fields(first)}
        plain = {key: column for key, column in columns.items() if isinstance(column, list)}
        if any(isinstance(column[0], torch.Tensor) or column != column[:1] * len(column) for column in plain.values()):
            return list(values)
        return type(first)(**{**columns, **{key: column[0] for key, column in plain.items()}})
    return list(values)


def same(a: Any, b: Any) -> bool:
    """Whether two results agree, but for rounding; what cannot be compared, such as functions, by its class."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
            return False
        if a.numel() == 0 and b.numel() == 0:
            return True
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-5, rtol=1e-5, equal_nan=True)
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return numbers and abs(a - b) <= 1e-5 * max(1.0, abs(b))
    if dataclasses.is_dataclass(b) and not isinstance(b, type):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(b))
    if isinstance(b, Sequence) and not isinstance(b, str):
        alike = isinstance(a, Sequence) and not isinstance(a, str) and len(a) == len(b)
        return alike and all(same(a[i], b[i]) for i in range(len(b)))
    return bool(a == b) if isinstance(b, (int, str, type(None))) else type(a) is type(b)

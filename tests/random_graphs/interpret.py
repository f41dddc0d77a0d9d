"""A naive interpreter of workflows, independent of the engine: it reads the YAML and calls the nodes one by one.

No passes, no cache, no plan, and every port is computed. The engine must give the same results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from tests.random_graphs.generate import RandomGraph

Values = dict[str, Any]
"""Values by link."""


def interpret(graph: RandomGraph) -> dict[str, Any]:
    """The outputs of a valid workflow, by name."""
    return _Interpreter(graph).run_workflow(graph.text, graph.params)


@dataclasses.dataclass
class _Interpreter:
    graph: RandomGraph

    def run_workflow(self, text: str, params: Mapping[str, Any]) -> dict[str, Any]:
        tree = yaml.load(text, yaml.CSafeLoader)
        values: Values = {}
        for name, declared in tree.get("params", {}).items():
            default = declared.get("default") if isinstance(declared, dict) else declared
            values[f"params.{name}"] = params.get(name, default)
        self.run_nodes(tree["nodes"], values)
        return {name: values[link] for name, link in tree["outputs"].items()}

    def run_nodes(self, nodes: Mapping[str, Any], scope: Values) -> None:
        """Compute all nodes of a block and add their values to ``scope``."""
        for name, node in nodes.items():
            if "loop" in node:
                scope.update(self.run_loop(name, node, scope))
            elif node["use"].endswith(".yaml"):
                arguments = {**node.get("with", {}), **self.inputs(node, scope)}
                outputs = self.run_workflow(self.graph.files[node["use"].removeprefix("./")], arguments)
                scope.update({f"{name}.{key}": value for key, value in outputs.items()})
            else:
                scope.update(self.run_call(name, node, scope))

    def inputs(self, node: Mapping[str, Any], values: Values) -> dict[str, Any]:
        links = node.get("in", {})
        return {
            port: [values[element] for element in link] if isinstance(link, list) else values[link]
            for port, link in links.items()
        }

    def run_call(self, name: str, node: Mapping[str, Any], values: Values) -> Values:
        spec = self.graph.registry.nodes[node["use"]]
        result = spec.function(**self.inputs(node, values), **node.get("with", {}))
        if spec.named_outputs:
            return {f"{name}.{key}": getattr(result, key) for key in spec.outputs}
        return {name: result, f"{name}.out": result}

    def run_loop(self, name: str, node: Mapping[str, Any], scope: Values) -> Values:
        over, item = scope[node["loop"]["over"]], node["loop"]["as"]
        carry = {key: scope[link] for key, link in node.get("carry", {}).items()}
        collected: dict[str, list[Any]] = {key: [] for key in node.get("collect", {})}
        for i, element in enumerate(_list_items(over)):
            inner = {**scope, "loop.index": i, f"loop.{item}": element}
            inner |= {f"loop.{item}.{field}": getattr(element, field) for field in getattr(element, "_fields", ())}
            inner |= {f"carry.{key}": value for key, value in carry.items()}
            self.run_nodes(node["body"], inner)
            for key, link in node.get("collect", {}).items():
                collected[key].append(inner[link])
            carry = {key: inner[link] for key, link in node.get("next", {}).items()}
        stacked = {
            key: torch.empty(0) if not values and (name, key) in self.graph.tensor_collects else _stack(values)
            for key, values in collected.items()
        }
        return {f"{name}.{key}": value for key, value in {**carry, **stacked}.items()}


class NegativeCount(Exception):
    """A loop over a number below 0, which only a run can find."""


def _list_items(over: Any) -> list[Any]:
    if isinstance(over, int):
        if over < 0:
            raise NegativeCount(over)
        return list(range(over))
    if isinstance(over, torch.Tensor):
        return [row.reshape(1) if over.ndim == 1 else row for row in over]
    return [over[i] for i in range(len(over))]


def _stack(values: Sequence[Any]) -> Any:
    """Tensors of one shape with an axis before the others, field by field in structures; else the list."""
    first = values[0] if values else None
    if isinstance(first, torch.Tensor):
        alike = all(isinstance(v, torch.Tensor) and v.shape == first.shape and v.dtype == first.dtype for v in values)
        return torch.stack(list(values)) if alike else list(values)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        columns = {f.name: _stack([getattr(v, f.name) for v in values]) for f in dataclasses.fields(first)}
        plain = {key: column for key, column in columns.items() if isinstance(column, list)}
        if any(isinstance(column[0], torch.Tensor) or column != column[:1] * len(column) for column in plain.values()):
            return list(values)
        return type(first)(**{**columns, **{key: column[0] for key, column in plain.items()}})
    return list(values)


def same(a: Any, b: Any) -> bool:
    """Whether two results agree up to rounding; values that cannot be compared, such as functions, by class."""
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
        same_length = isinstance(a, Sequence) and not isinstance(a, str) and len(a) == len(b)
        return same_length and all(same(a[i], b[i]) for i in range(len(b)))
    return bool(a == b) if isinstance(b, (int, str, type(None))) else type(a) is type(b)

"""What checks do with a node's values: make its arguments, call it, change, cut and compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.context import placement
from guidegraph.graph.export.leaves import Leaf, leaves_of, rebuilt
from guidegraph.graph.hosted import kinds
from guidegraph.graph.models import freeze, is_module
from guidegraph.graph.node import Port
from guidegraph.graph.types import PortType, SequenceOf, is_tensor, register_structured
from guidegraph.graph.weights import models_in
from guidegraph.testing.case import NodeCase
from guidegraph.testing.examples import example_for
from guidegraph.testing.outcome import Inapplicable

ROUNDING: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""The largest difference, of the largest value or of 1, that is rounding."""


@dataclass(frozen=True)
class Arguments:
    """What a node is called with: values of ports and settings by name."""

    ports: Mapping[str, Any]
    settings: Mapping[str, Any]

    def mapped(self, case: NodeCase, change: Callable[[Port, Leaf], Tensor]) -> Arguments:
        """The same with other tensors; `change` sees each leaf and its port."""
        spec = case.spec

        def of(name: str, value: Any) -> Any:
            port = spec.inputs.get(name) or spec.settings[name]
            leaves = leaves_of(value, port.type)
            return rebuilt(value, [change(port, leaf) for leaf in leaves]) if leaves else value

        return Arguments(
            {name: of(name, value) for name, value in self.ports.items()},
            {name: of(name, value) for name, value in self.settings.items()},
        )

    def with_port(self, name: str, value: Any) -> Arguments:
        return Arguments({**self.ports, name: value}, self.settings)

    def leaves(self, case: NodeCase) -> Iterator[tuple[Port, Leaf]]:
        """Every tensor, with its port or setting; those of models are none of them."""
        spec = case.spec
        for name, value in (*self.ports.items(), *self.settings.items()):
            port = spec.inputs.get(name) or spec.settings[name]
            yield from ((port, leaf) for leaf in leaves_of(value, port.type))


def arguments(case: NodeCase) -> Arguments:
    """Given values, examples for what has no default, and defaults of settings. Raises ``NoExample``.

    Given tensors are copied, and given modules frozen, as a run does.
    """
    register_structured()
    spec = case.spec
    ports = {name: _own(value) for name, value in case.inputs.items()}
    settings = {name: _own(value) for name, value in case.settings.items()}
    for i, (name, port) in enumerate(spec.inputs.items()):
        if name not in ports and port.required:
            ports[name] = example_for(case.id, port, i)
    for i, (name, port) in enumerate(spec.settings.items()):
        if name not in settings:
            settings[name] = example_for(case.id, port, i) if port.required else port.default
    ordered = {name: ports[name] for name in spec.inputs if name in ports}
    return Arguments(ordered, {name: settings[name] for name in spec.settings})


def moved(case: NodeCase, given: Arguments, move: Callable[[Tensor], Tensor]) -> Arguments:
    """The arguments with every tensor, and the weights of every model, elsewhere."""
    there = given.mapped(case, lambda port, leaf: move(leaf.tensor))
    return with_models(there, move)


def with_models(given: Arguments, move: Callable[[Tensor], Tensor]) -> Arguments:
    """The arguments with copies of their models, wherever these are in a value, that have moved weights."""

    def of(value: Any) -> Any:
        memo: dict[int, Any] = {}
        for module in models_in(value):
            memo |= {id(one): nn.Parameter(move(one), requires_grad=False) for one in module.parameters()}
            memo |= {id(one): move(one) for one in module.buffers()}
        return copy.deepcopy(value, memo) if memo else value

    ports = {name: of(value) for name, value in given.ports.items()}
    return Arguments(ports, {name: of(value) for name, value in given.settings.items()})


def _own(value: Any) -> Any:
    for module in models_in(value):
        freeze(module)
    leaves = leaves_of(value)
    return rebuilt(value, [leaf.tensor.clone() for leaf in leaves]) if leaves else value


def call(case: NodeCase, given: Arguments, device: str = "cpu", grad: bool = False) -> dict[str, Any]:
    """The outputs by name, computed as a run does. Raises ``Nonconforming`` where the node fails."""
    spec = case.spec
    try:
        with placement(device, "float32"), torch.set_grad_enabled(grad):
            found = spec.function(**given.ports, **given.settings)
    except Exception as error:
        raise case.error(
            "a result for " + shown(case, given),
            f"{type(error).__name__}: {error}",
            "repair the node; or, where these values make no sense for it, give others: NodeCase(…, inputs={…})",
        ) from error
    return outputs_of(case, found)


def outputs_of(case: NodeCase, found: Any) -> dict[str, Any]:
    spec = case.spec
    if not spec.named_outputs:
        return dict.fromkeys(spec.outputs, found)
    if not isinstance(found, tuple) or len(found) != len(spec.outputs):
        names = ", ".join(spec.outputs)
        raise case.error(f"a NamedTuple of {names}", type(found).__name__, "return what the annotation says")
    return dict(zip(spec.outputs, found, strict=True))


def shown(case: NodeCase, given: Arguments) -> str:
    """The arguments in a few words."""
    words = [f"{name} {_brief(value)}" for name, value in {**given.ports, **given.settings}.items()]
    return ", ".join(words) or "no inputs"


def _brief(value: Any) -> str:
    leaves = leaves_of(value)
    if leaves:
        shapes = ", ".join(f"{leaf.path} {tuple(leaf.tensor.shape)}".strip() for leaf in leaves[:3])
        return shapes if is_tensor(value) else f"{type(value).__name__}({shapes})"
    return f"{value!r:.30}" if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


def leaves_out(case: NodeCase, outputs: Mapping[str, Any]) -> Iterator[tuple[str, Leaf]]:
    """Every tensor of the outputs, by the name of the output and its place in it."""
    for name, value in outputs.items():
        for leaf in leaves_of(value, case.spec.outputs[name]):
            yield leaf.named(name), leaf


def difference(found: Any, expected: Any) -> float:
    """The largest difference of two results, of the largest expected value or of 1; infinite where they do not compare.

    Looks at tensors in values, at the weights of models, and at numbers; NaN equals NaN.
    """
    a, b = comparable(found), comparable(expected)
    if len(a) != len(b):
        return float("inf")
    return max((_apart(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def comparable(value: Any) -> list[Any]:
    """What can be compared of a value: tensors, weights of models, numbers and texts."""
    from torch.utils._pytree import tree_flatten

    found: list[Any] = []
    for one in tree_flatten(value)[0]:
        if is_tensor(one) or isinstance(one, (int, float, str)):
            found.append(one)
        elif hasattr(one, "records"):
            found += [cell for row in one.records() for cell in row.values()]
        else:
            found += [tensor for module in models_in(one) for tensor in module.state_dict().values()]
    return found


def _apart(x: Any, y: Any) -> float:
    if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
        return 0.0 if x == y else float("inf")
    first, second = torch.as_tensor(x), torch.as_tensor(y)
    if first.shape != second.shape:
        return float("inf")
    a, b = first.detach().double(), second.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    apart = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    scale = max(1.0, float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 1.0)
    return float(apart.max()) / scale


def identical(found: Any, expected: Any) -> bool:
    """Whether two results agree bit for bit."""
    return difference(found, expected) == 0.0


def rounding(given: Mapping[str, Any] | Any) -> float:
    """What counts as rounding for the least precise floating tensor of a value."""
    found = [ROUNDING[one.dtype] for one in comparable(given) if is_tensor(one) and one.dtype in ROUNDING]
    return max(found, default=ROUNDING[torch.float32])


def changed(value: Any, seed: int = 1) -> Any:
    """Another value of the same kind: floats a little off, whole numbers and truths in another order, other weights."""
    generator = torch.Generator().manual_seed(seed)

    def other(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return tensor + 0.1 * noise.to(tensor)
        return tensor.flip(0)

    leaves = leaves_of(value)
    if leaves:
        return rebuilt(value, [other(leaf.tensor) for leaf in leaves])
    if is_module(value):
        moved = copy.deepcopy(value)
        for parameter in moved.parameters():
            parameter.data = other(parameter.data)
        return moved
    return value


def gives_model(case: NodeCase) -> bool:
    """Whether an output is a model; where the type does not tell, the node is asked."""
    made = {kind for port in case.spec.outputs.values() for kind in kinds(port)}
    if "model" in made:
        return True
    return "unknown" in made and bool(models_in(list(call(case, arguments(case)).values())))


def only_traceable(case: NodeCase) -> None:
    """Raises ``Inapplicable`` for a node whose call gives a model, where its types do not tell."""
    if gives_model(case):
        raise Inapplicable("it gives a model")


def floating(kind: PortType) -> bool:
    """Whether a setting takes one number for all samples, and also a tensor with one for each."""
    names = [a for a in kind.alternatives if not isinstance(a, SequenceOf)]
    return float in names and any(a.__name__ == "Tensor" for a in names)

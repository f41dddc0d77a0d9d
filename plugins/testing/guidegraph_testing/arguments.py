"""The arguments of a node in checks: make, move and change them; call the node with them."""

from __future__ import annotations

import copy
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import use_device
from guidegraph.graph.export.partition.leaves import Leaf, rebuild, tensor_leaves
from guidegraph.graph.frozen_models import freeze, is_module
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.port import Port, port_kinds
from guidegraph.graph.types import PortType, SequenceOf, is_tensor, register_structured
from guidegraph.graph.types import Tensor as AnyTensor
from guidegraph_testing.case import Inapplicable, NodeCase, NoExample, Nonconforming
from guidegraph_testing.examples import make_example


@dataclass(frozen=True)
class Arguments:
    """The arguments of a node: values of ports and settings by name."""

    ports: Mapping[str, Any]
    settings: Mapping[str, Any]

    def map_tensors(self, case: NodeCase, change: Callable[[Port, Leaf], Tensor]) -> Arguments:
        """Map the tensors: `change` gets each leaf and its port."""
        spec = case.spec

        def map_value(name: str, value: Any) -> Any:
            port = spec.inputs.get(name) or spec.settings[name]
            leaves = tensor_leaves(value, port.type)
            return rebuild(value, [change(port, leaf) for leaf in leaves]) if leaves else value

        return Arguments(
            {name: map_value(name, value) for name, value in self.ports.items()},
            {name: map_value(name, value) for name, value in self.settings.items()},
        )

    def with_port(self, name: str, value: Any) -> Arguments:
        return Arguments({**self.ports, name: value}, self.settings)

    def leaves(self, case: NodeCase) -> Iterator[tuple[Port, Leaf]]:
        """Every tensor with its port or setting, except tensors of models."""
        spec = case.spec
        for name, value in (*self.ports.items(), *self.settings.items()):
            port = spec.inputs.get(name) or spec.settings[name]
            yield from ((port, leaf) for leaf in tensor_leaves(value, port.type))


def make_arguments(case: NodeCase) -> Arguments:
    """The arguments of a case: its own values, defaults, and examples where required. Raises ``NoExample``.

    The case's tensors are copied, and its modules frozen, as in a run.
    """
    register_structured()
    spec = case.spec
    ports = {name: _copy_tensors(value) for name, value in case.inputs.items()}
    settings = {name: _copy_tensors(value) for name, value in case.settings.items()}
    for i, (name, port) in enumerate(spec.inputs.items()):
        if name not in ports and port.required:
            ports[name] = make_example(case.id, port, i)
    for i, (name, port) in enumerate(spec.settings.items()):
        if name not in settings:
            settings[name] = make_example(case.id, port, i) if port.required else port.default
    ordered = {name: ports[name] for name in spec.inputs if name in ports}
    return Arguments(ordered, {name: settings[name] for name in spec.settings})


def move_tensors(case: NodeCase, args: Arguments, move: Callable[[Tensor], Tensor]) -> Arguments:
    """The arguments with every tensor and all weights of models moved."""
    on_device = args.map_tensors(case, lambda port, leaf: move(leaf.tensor))
    return move_models(on_device, move)


def move_models(args: Arguments, move: Callable[[Tensor], Tensor]) -> Arguments:
    """The arguments with copies of their models, at any depth, that have moved weights."""

    def map_value(value: Any) -> Any:
        memo: dict[int, Any] = {}
        for module in find_models(value):
            memo |= {id(tensor): nn.Parameter(move(tensor), requires_grad=False) for tensor in module.parameters()}
            memo |= {id(tensor): move(tensor) for tensor in module.buffers()}
        return copy.deepcopy(value, memo) if memo else value

    ports = {name: map_value(value) for name, value in args.ports.items()}
    return Arguments(ports, {name: map_value(value) for name, value in args.settings.items()})


def _copy_tensors(value: Any) -> Any:
    for module in find_models(value):
        freeze(module)
    leaves = tensor_leaves(value)
    return rebuild(value, [leaf.tensor.clone() for leaf in leaves]) if leaves else value


def call_node(case: NodeCase, args: Arguments, device: str = "cpu", grad: bool = False) -> dict[str, Any]:
    """Call the node as a run does. Returns the outputs by name. Raises ``Nonconforming`` if it fails."""
    spec = case.spec
    try:
        with use_device(device, "float32"), torch.set_grad_enabled(grad):
            result = spec.function(**args.ports, **args.settings)
    except Exception as error:
        file = spec.function.__code__.co_filename
        lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
        place = f" ({Path(file).name}:{lines[-1]})" if lines else ""
        raise case.error(
            "a result for " + format_arguments(args),
            f"{type(error).__name__}: {error}{place}",
            "repair the node; or, where these values make no sense for it, give others: NodeCase(…, inputs={…})",
        ) from error
    return name_outputs(case, result)


def name_outputs(case: NodeCase, result: Any) -> dict[str, Any]:
    spec = case.spec
    if not spec.named_outputs:
        return dict.fromkeys(spec.outputs, result)
    if not isinstance(result, tuple) or len(result) != len(spec.outputs):
        names = ", ".join(spec.outputs)
        raise case.error(f"a NamedTuple of {names}", type(result).__name__, "return what the annotation says")
    return dict(zip(spec.outputs, result, strict=True))


def format_arguments(args: Arguments) -> str:
    """A short description of the arguments."""
    words = []
    for name, value in {**args.ports, **args.settings}.items():
        shapes = [f"{leaf.path} {tuple(leaf.tensor.shape)}".strip() for leaf in tensor_leaves(value)[:3]]
        text = ", ".join(shapes) if is_tensor(value) else f"{type(value).__name__}({', '.join(shapes)})"
        if not shapes:
            is_plain = isinstance(value, (str, int, float, bool, type(None)))
            text = f"{value!r:.30}" if is_plain else type(value).__name__
        words.append(f"{name} {text}")
    return ", ".join(words) or "no inputs"


def output_leaves(case: NodeCase, outputs: Mapping[str, Any]) -> Iterator[tuple[str, Leaf]]:
    """Every tensor of the outputs, with its path (output name and position in it)."""
    for name, value in outputs.items():
        for leaf in tensor_leaves(value, case.spec.outputs[name]):
            yield leaf.full_name(name), leaf


def perturb(value: Any) -> Any:
    """A changed value of the same kind: floats perturbed, integers and booleans reordered, weights perturbed."""
    generator = torch.Generator().manual_seed(1)

    def perturb_tensor(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return tensor + 0.1 * noise.to(tensor)
        return tensor.flip(0)

    leaves = tensor_leaves(value)
    if leaves:
        return rebuild(value, [perturb_tensor(leaf.tensor) for leaf in leaves])
    if is_module(value):
        copied = copy.deepcopy(value)
        for parameter in copied.parameters():
            parameter.data = perturb_tensor(parameter.data)
        return copied
    return value


def gives_model(case: NodeCase) -> bool:
    """Whether an output is a model; if the types do not tell, the node is called."""
    kinds_given = {kind for port in case.spec.outputs.values() for kind in port_kinds(port)}
    if "model" in kinds_given:
        return True
    return "unknown" in kinds_given and bool(find_models(list(call_node(case, make_arguments(case)).values())))


def require_traceable(case: NodeCase) -> None:
    """Raise ``Inapplicable`` for a node that returns a model."""
    if gives_model(case):
        raise Inapplicable("it gives a model")


def takes_one_or_per_sample(kind: PortType) -> bool:
    """Whether a setting takes either one number for all samples or a tensor with one per sample."""
    names = [a for a in kind.alternatives if not isinstance(a, SequenceOf)]
    return float in names and any(a.__name__ == "Tensor" for a in names)


WIDER = 4
"""The increase in width: divisible by 4, so that a latent may be halved twice."""


def declares_axes(kind: PortType, value: Any, leaf: Leaf) -> bool:
    """Whether a type declares a tensor's axes. If it does not, the first axis is taken as the batch."""
    if leaf.path and leaf.path in getattr(type(value), "leaf_axes", {}):
        return True
    return any(
        not isinstance(alternative, SequenceOf)
        and AnyTensor in alternative.__mro__
        and getattr(alternative, "axes", None) is not None
        for alternative in kind.alternatives
    )


def batch_size(case: NodeCase, arguments: Arguments) -> int | None:
    """The number of samples of the inputs; None if no input has a batch axis.

    Types that declare their axes decide before tensors whose first axis is taken as the batch.
    """
    declared: list[int] = []
    guessed: list[int] = []
    for port, leaf in arguments.leaves(case):
        if "B" in leaf.axes:
            value = arguments.ports.get(port.name, arguments.settings.get(port.name))
            sizes = declared if declares_axes(port.type, value, leaf) or leaf.tensor.ndim == 4 else guessed
            sizes.append(int(leaf.tensor.shape[leaf.axes.index("B")]))
    texts = [len(value) for value in arguments.ports.values() if is_texts(value)]
    return max(declared or guessed or texts, default=None)


def is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(text, str) for text in value)


def take_sample(case: NodeCase, arguments: Arguments, batch: int, index: int) -> Arguments:
    """The arguments of one sample, with a batch axis of 1. Values shared by all samples stay."""

    def cut(port: Port, leaf: Leaf) -> Tensor:
        tensor: Tensor = leaf.tensor
        return narrow_to_sample(tensor, leaf, batch, index)

    sample = arguments.map_tensors(case, cut)
    texts = {n: [v[index]] for n, v in arguments.ports.items() if is_texts(v) and len(v) == batch}
    return Arguments({**sample.ports, **texts}, sample.settings)


def narrow_to_sample(tensor: Tensor, leaf: Leaf, batch: int, index: int) -> Tensor:
    """A tensor with the axes of a leaf, cut to one sample."""
    for axis, letter in enumerate(leaf.axes):
        if letter == "B" and tensor.shape[axis] == batch:
            tensor = tensor.narrow(axis, index, 1)
    return tensor


def widen(port: Port, leaf: Leaf) -> Tensor:
    """A leaf's tensor, widened by repeating its first columns."""
    tensor: Tensor = leaf.tensor
    for axis, letter in enumerate(leaf.axes):
        if letter == "W":
            index = torch.arange(tensor.shape[axis] + WIDER) % tensor.shape[axis]
            tensor = tensor.index_select(axis, index)
    return tensor


NUMBERS: tuple[Any, ...] = (0, 1, 2, 0.0, 1.0, 0.5)


def vary_settings(case: NodeCase, arguments: Arguments, numbers: bool = False) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one setting changed: each choice, True and False, and some numbers if ``numbers``.

    Each comes with a description of the change for messages.
    """
    for name, port in case.spec.settings.items():
        if name in case.settings or name in case.constant:
            continue
        for value in _values(port, numbers):
            if value != arguments.settings[name] or type(value) is not type(arguments.settings[name]):
                yield f"{name} = {value!r}", Arguments(arguments.ports, {**arguments.settings, name: value})


def _values(port: Port, numbers: bool) -> Iterator[Any]:
    kinds = [kind for kind in port.type.alternatives if not isinstance(kind, SequenceOf)]
    values = [*literal_choices(port.annotation), *((False, True) if bool in kinds else ())]
    if numbers:
        values += [number for number in NUMBERS if type(number) in kinds]
    for value in values:
        with suppress(ValueError):
            yield port.check(value)


def literal_choices(annotation: Any) -> Iterator[Any]:
    """The values of the ``Literal`` in an annotation, if any."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
        return
    for inner in typing.get_args(annotation):
        yield from literal_choices(inner) if typing.get_origin(inner) is not None else ()


def wire_optional_ports(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one more port: each optional port that has an example."""
    for i, (name, port) in enumerate(case.spec.inputs.items()):
        if name not in arguments.ports:
            with suppress(NoExample):
                yield name, arguments.with_port(name, make_example(case.id, port, i))


def with_one_sample(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments reduced to a batch of 1, if they have a larger batch."""
    batch = batch_size(case, arguments)
    if batch is not None and batch > 1:
        yield "one sample", take_sample(case, arguments, batch, 0)


def vary_arguments(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """All of the variations above, one at a time."""
    yield from with_one_sample(case, arguments)
    yield from vary_settings(case, arguments)
    yield from ((f"port '{name}' wired", wired) for name, wired in wire_optional_ports(case, arguments))


def call_or_none(case: NodeCase, arguments: Arguments) -> dict[str, Any] | None:
    """Call the node. Returns None if it fails, because these values do not go together."""
    try:
        return call_node(case, arguments)
    except Nonconforming:
        return None

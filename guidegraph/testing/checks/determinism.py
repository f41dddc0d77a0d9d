"""A pure node is deterministic, and does not modify its inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.memory.weights import find_models
from guidegraph.testing.arguments import Arguments, call_node, make_arguments
from guidegraph.testing.case import NodeCase
from guidegraph.testing.comparison import difference, is_identical
from guidegraph.testing.outcome import Inapplicable


def check_determinism(case: NodeCase) -> None:
    """Two calls are bit-identical under different states of torch's generator, which they leave unchanged."""
    results = []
    for seed in (1, 2):
        args = make_arguments(case)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            results.append(call_node(case, args))
            drawn = not torch.equal(before, torch.get_rng_state())
        if drawn:
            raise case.error(
                "torch's global generator as it was",
                "the node draws from it, or seeds it",
                "take noise from a port (noise.gaussian), or draw from a torch.Generator with a seed that is a "
                "setting; or say pure=False",
            )
    if not is_identical(results[0], results[1]):
        raise case.error(
            "the same result twice, bit for bit",
            f"results that differ by {difference(results[0], results[1]):.1e}",
            "draw nothing without a seed, and keep nothing from call to call; or say pure=False",
        )


def check_inputs_unchanged(case: NodeCase) -> None:
    """No input tensor, list or model is modified in place."""
    args = make_arguments(case)
    tensors = list(_tensors(case, args))
    before = [(location, tensor, tensor._version, tensor.detach().clone()) for location, tensor in tensors]
    plain = {n: v for n, v in {**args.ports, **args.settings}.items() if isinstance(v, (list, dict))}
    copies = {name: copy.copy(value) for name, value in plain.items()}
    modules = [(name, module, _module_state(module)) for name, module in _modules(args)]
    if not (before or plain or modules):
        raise Inapplicable("it has no arguments that could be changed in place")
    call_node(case, args)
    for location, tensor, version, values in before:
        if tensor._version != version or not is_identical(tensor, values):
            raise case.error(
                f"{location} as it was",
                "it is changed in place",
                "work on a copy: x = x + y, not x += y; x.clone() before x[…] = y; no method that ends with _",
            )
    for name, value in copies.items():
        if len(plain[name]) != len(value) or any(a is not b for a, b in zip(plain[name], value, strict=True)):
            raise case.error(f"port '{name}' as it was", "its elements changed", "work on a copy: list(values)")
    for name, module, hooks in modules:
        if _module_state(module) != hooks:
            raise case.error(
                f"the model at port '{name}' as it was",
                "its hooks, its modules or its mode (train, eval) changed",
                "return a copy that shares tensors (copy.deepcopy with a memo of the parameters), or take hooks off",
            )


def _tensors(case: NodeCase, args: Arguments) -> Iterator[tuple[str, Tensor]]:
    for port, leaf in args.leaves(case):
        yield f"'{leaf.full_name(port.name)}'", leaf.tensor
    for name, module in _modules(args):
        for inner, tensor in (*module.named_parameters(), *module.named_buffers()):
            yield f"weight '{inner}' of the model at port '{name}'", tensor


def _modules(args: Arguments) -> Iterator[tuple[str, nn.Module]]:
    for name, value in (*args.ports.items(), *args.settings.items()):
        yield from ((name, module) for module in find_models(value))


def _module_state(module: nn.Module) -> list[Any]:
    return [
        (
            id(submodule),
            submodule.training,
            len(submodule._forward_hooks),
            len(submodule._forward_pre_hooks),
            "forward" in vars(submodule),
        )
        for submodule in module.modules()
    ]

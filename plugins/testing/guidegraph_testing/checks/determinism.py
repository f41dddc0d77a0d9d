"""A pure node is deterministic, and does not modify its inputs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from guidegraph.graph.memory.weights import find_models
from guidegraph_testing.arguments import call_node, make_arguments
from guidegraph_testing.case import Inapplicable, NodeCase
from guidegraph_testing.comparison import difference, is_identical


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
    models = [(n, model) for n, v in (*args.ports.items(), *args.settings.items()) for model in find_models(v)]
    tensors = [(f"'{leaf.full_name(port.name)}'", leaf.tensor) for port, leaf in args.leaves(case)]
    for name, model in models:
        weights = (*model.named_parameters(), *model.named_buffers())
        tensors += [(f"weight '{inner}' of the model at port '{name}'", tensor) for inner, tensor in weights]
    before = [(location, tensor, tensor._version, tensor.detach().clone()) for location, tensor in tensors]
    plain = {n: v for n, v in {**args.ports, **args.settings}.items() if isinstance(v, (list, dict))}
    copies = {name: copy.copy(value) for name, value in plain.items()}
    modules = [(name, model, _module_state(model)) for name, model in models]
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

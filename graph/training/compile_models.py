"""torch.compile for the models of a training, which ``--accelerate compile`` asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

COMPILE = "compile"
"""The accelerator that acts in trainings too."""


def compile_models(models: Iterable[torch.nn.Module]) -> None:
    """Compile the networks of models in place, forward and backward. Names, weights and copies stay as they are.

    The networks that a model is made of are compiled, and not the model: nodes may call it by a method of its own.
    """
    for model in models:
        for network in _list_networks(model):
            _compile(network)


def _compile(network: torch.nn.Module) -> None:
    """Compile a network in place. ``Module.compile`` does nothing for containers of torch itself: dynamo skips them."""
    import torch

    if not type(network).__module__.startswith("torch.nn.") or not any(network.children()):
        network.compile()
        return
    call: Callable[..., Any] = network._call_impl

    def run(*args: Any, **by_name: Any) -> Any:
        return call(*args, **by_name)

    network._compiled_call_impl = torch.compile(run)


def keep_for_several_gradients(accelerate: str) -> AbstractContextManager[Any]:
    """A context in which compiled networks keep their values for the gradients of several losses.

    By default a compiled backward pass may overwrite them, and torch raises an error if a second one needs them.
    """
    if accelerate != COMPILE:
        return nullcontext()
    from guidegraph.graph.torch_private import functorch_config

    patch: AbstractContextManager[Any] = functorch_config.patch(donated_buffer=False)
    return patch


def _list_networks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The outermost modules in a model that are called, or the model itself if it has none."""
    from torch import nn

    children = [*model.children()]
    if not children:
        yield model
    for child in children:
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _list_networks(child) if len(child) else ()
        else:
            yield child


def restore_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it was before ``compile_models``."""
    for module in model.modules():
        module.__dict__.pop("_compiled_call_impl", None)
    return model

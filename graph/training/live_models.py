"""Live models of a training loop: the parameters to train, and the frozen ones shared with the original.

A module may have a method ``trainable_names``, which returns the names (as in ``named_parameters``) of the parameters
to train; by default all are trained. Frozen parameters have no optimiser and are not in checkpoints. If they are on the
device already, the live model shares the original's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from guidegraph.graph.frozen_models import deepcopy_module

if TYPE_CHECKING:
    import torch

TRAINABLE_METHOD = "trainable_names"


def list_frozen_names(module: torch.nn.Module) -> frozenset[str]:
    """The names of the frozen parameters. Raises ``ValueError`` if the trainable names are empty or unknown."""
    names = {name for name, _ in module.named_parameters()}
    if not hasattr(module, TRAINABLE_METHOD):
        return frozenset()
    trainable = set(getattr(module, TRAINABLE_METHOD)())
    if unknown := sorted(trainable - names):
        raise ValueError(
            f"{type(module).__name__}.{TRAINABLE_METHOD} names {unknown[0]}, which is none of its parameters"
        )
    if not trainable:
        raise ValueError(f"there is nothing to train: {type(module).__name__}.{TRAINABLE_METHOD} names no parameter")
    return frozenset(names - trainable)


def live_copy(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A copy on a device for training. Frozen parameters that are on the device already are shared, not copied.

    Weights of 16 bits become float32 if all of the module is trained: they would lose small updates.
    """
    frozen = list_frozen_names(module)
    shared = {id(p): p for name, p in module.named_parameters() if name in frozen and p.device == device}
    copied: torch.nn.Module = deepcopy_module(module, shared).to(device)
    return copied if frozen else copied._apply(lambda tensor: tensor.float() if is_narrow(tensor) else tensor)


def is_narrow(tensor: torch.Tensor) -> bool:
    """Whether a tensor has floating-point numbers of fewer than 32 bits."""
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def list_trained_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters to train, in order."""
    frozen = list_frozen_names(module)
    return [parameter for name, parameter in module.named_parameters() if name not in frozen]


def get_trained_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a module without its frozen parameters."""
    frozen = list_frozen_names(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def load_trained_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state without frozen parameters. Raises ``RuntimeError`` if it does not fit the module."""
    result = module.load_state_dict(state, strict=False)  # does not write frozen tensors, which may be shared
    missing = [name for name in result.missing_keys if name not in list_frozen_names(module)]
    if missing or result.unexpected_keys:
        raise RuntimeError(f"missing: {', '.join(missing)}; unexpected: {', '.join(result.unexpected_keys)}")


def save_buffers(modules: Iterable[torch.nn.Module]) -> Callable[[], None]:
    """Copy the buffers of modules, such as running means. Returns a function that puts the copies back."""
    import torch

    owners = [owner._buffers for module in modules for owner in module.modules()]
    saved = [
        (buffers, name, buffer, buffer.clone())
        for buffers in owners
        for name, buffer in buffers.items()
        if buffer is not None
    ]

    def restore() -> None:
        with torch.no_grad():
            for buffers, name, buffer, copied in saved:
                buffers[name] = buffer.copy_(copied)

    return restore


def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Update a moving average of a model in place: decay · average + (1 − decay) · model; buffers are copied."""
    import torch

    with torch.no_grad():
        for averaged, current in zip(list_trained_parameters(average), list_trained_parameters(model), strict=True):
            averaged.lerp_(current, 1 - decay)
        for target, source in zip(average.buffers(), model.buffers(), strict=True):
            target.copy_(source)

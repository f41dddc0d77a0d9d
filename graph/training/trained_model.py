"""A model in training: its optimisers, its gradients, and one step of it.

Live models of a training loop: the parameters to train, and the frozen ones shared with the original.

A module may have a method ``trainable_names``, which returns the names (as in ``named_parameters``) of the parameters
to train; by default all are trained. Frozen parameters have no optimiser and are not in checkpoints. If they are on the
device already, the live model shares the original's tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from guidegraph.graph.errors import PortError
from guidegraph.graph.frozen_models import deepcopy_module
from guidegraph.graph.literals import convert_literal
from guidegraph.graph.sources import Source
from guidegraph.graph.training.fit import OptimisedModel
from guidegraph.graph.training.optimisers import make_optimisers
from guidegraph.graph.training.options import linkable_options
from guidegraph.graph.training.ranks import ProcessGroup
from guidegraph.graph.values.output_check import ABSENT


@dataclass
class TrainedModel:
    """One live model with its optimisers and, if requested, its moving average."""

    spec: OptimisedModel
    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    optimisers: list[torch.optim.Optimizer]
    average: torch.nn.Module | None

    @property
    def result(self) -> torch.nn.Module:
        """The model that the training gives: the moving average if there is one."""
        return self.model if self.average is None else self.average


def apply_links(model: OptimisedModel, values: Mapping[Source, Any]) -> OptimisedModel:
    """A model to train with its linked options replaced by their values.

    Raises ``ValueError`` for a value that is not valid for the option.
    """
    ports, linked = linkable_options(model.optimizer), {}
    for name, source in model.linked.items():
        try:
            linked[name] = convert_literal(ports[name], values[source], Path())
        except ValueError as error:
            raise ValueError(f"'{name}' of '{model.model}': {error}") from None
    common_options = {name: linked.pop(name) for name in ("lr", "ema", "start") if name in linked}
    return replace(model, options={**model.options, **linked}, linked={}, **common_options)


def prepare_model(spec: OptimisedModel, value: Any, device: torch.device) -> TrainedModel:
    """A live copy of a model with new optimisers. Raises ``PortError`` for any other value, such as an absent part."""
    if getattr(type(value), ABSENT, False):
        raise PortError(spec.model, repr(value))
    if not isinstance(value, torch.nn.Module):
        raise PortError(spec.model, f"only a torch module can be trained; found {type(value).__name__}")
    model = live_copy(value, device).train()
    average = live_copy(value, device).eval().requires_grad_(False) if spec.ema is not None else None
    parameters = list_trained_parameters(model)
    _warn_of_narrow_weights(spec, parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return TrainedModel(spec, model, parameters, make_optimisers(spec, model, parameters), average)


def _warn_of_narrow_weights(spec: OptimisedModel, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Warn if weights of 16 bits are trained: those of a model of which other weights are frozen."""
    if dtypes := sorted(
        {str(parameter.dtype).removeprefix("torch.") for parameter in parameters if is_narrow(parameter)}
    ):
        warnings.warn(
            f"the trained weights of '{spec.model}' are in {' and '.join(dtypes)}, which loses small updates: leave "
            "--dtype out to train in float32, and write 'precision: bf16' to compute in bfloat16",
            stacklevel=2,
        )


def learning_rate(spec: OptimisedModel, step: int, total: int) -> float:
    """The learning rate at a step: linear warm-up over ``warmup`` steps, then constant, cosine or linear decay."""
    steps_trained = step - spec.start
    warmup = int(spec.options.get("warmup", 0))
    if steps_trained < warmup:
        return spec.lr * (steps_trained + 1) / warmup
    progress_fraction = (steps_trained - warmup) / max(1, total - spec.start - warmup)
    shape = spec.options.get("schedule", "constant")
    if shape == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * min(progress_fraction, 1.0)))
    return spec.lr * (1 - min(progress_fraction, 1.0)) if shape == "linear" else spec.lr


def set_gradients(loss: Any, group: Sequence[TrainedModel], processes: ProcessGroup, *, keep_graph: bool) -> None:
    """Set the gradients of a loss for its own models' parameters. Raises ``ValueError`` if a model has none.

    keep_graph: the gradient of another loss is still to be computed, which may need the same values.
    """
    parameters = [p for t in group for p in t.parameters]
    gradients: Sequence[torch.Tensor | None] = [None] * len(parameters)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss.reshape(()), parameters, retain_graph=keep_graph, allow_unused=True)
    with_gradient = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    for t in group:
        if not any(id(p) in with_gradient for p in t.parameters):
            raise ValueError(f"the loss of '{t.spec.model}' does not depend on it: no parameter has a gradient")
    for parameter, gradient in zip(parameters, processes.mean(gradients), strict=True):
        parameter.grad = gradient


def step_model(t: TrainedModel, i: int, total: int) -> None:
    """Update a model's parameters and its moving average in step ``i`` of ``total``, from gradients that are set."""
    if clip := t.spec.options.get("clip"):
        torch.nn.utils.clip_grad_norm_(t.parameters, float(clip))
    for optimiser in t.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(t.spec, i, total)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    _step_average(t, i)


def check_weights(t: TrainedModel, done: int) -> None:
    """Raise ``ValueError`` if the weights are not finite after step ``done``: no training can go on from them."""
    if not all(bool(parameter.isfinite().all()) for parameter in t.parameters):
        raise ValueError(
            f"the weights of '{t.spec.model}' are not finite after step {done}: the training has diverged, and an "
            "earlier checkpoint stays as it is; choose a lower 'lr', a 'warmup' or a 'clip'"
        )


def _step_average(t: TrainedModel, i: int) -> None:
    """Update the moving average; with ``ema_warmup`` its decay is lower at first, so that the start is forgotten."""
    if t.average is None or t.spec.ema is None:
        return
    decay = t.spec.ema
    if t.spec.options.get("ema_warmup"):
        steps_trained = i - t.spec.start
        decay = min(decay, (1 + steps_trained) / (10 + steps_trained))
    update_average(t.average, t.model, decay)


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
    with torch.no_grad():
        for averaged, current in zip(list_trained_parameters(average), list_trained_parameters(model), strict=True):
            averaged.lerp_(current, 1 - decay)
        for target, source in zip(average.buffers(), model.buffers(), strict=True):
            target.copy_(source)

"""A model in training: its optimisers, its gradients, and one step of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.execution.call import PortError
from guidegraph.graph.literals import convert_literal
from guidegraph.graph.sources import Source
from guidegraph.graph.training.fit import OptimisedModel
from guidegraph.graph.training.live_models import is_narrow, list_trained_parameters, live_copy, update_average
from guidegraph.graph.training.options import linkable_options
from guidegraph.graph.training.process_group import ProcessGroup
from guidegraph.graph.values.output_check import ABSENT

if TYPE_CHECKING:
    import torch


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
    import torch

    from guidegraph.graph.training.optimisers import make_optimisers

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
    import torch

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
    import torch

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

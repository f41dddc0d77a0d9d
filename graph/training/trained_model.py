"""A model in training: its optimisers, its gradients, and one step of it.

Muon (Jordan et al. 2024): updates of matrices that are orthogonal.

torch's own ``torch.optim.Muon`` iterates in bfloat16, which processors without it emulate: there a training step of a
U-Net took four times as long as with this one, which iterates in float32, and in bfloat16 inside ``torch.autocast``.

Live models of a training loop: the parameters to train, and the frozen ones shared with the original.

A module may have a method ``trainable_names``, which returns the names (as in ``named_parameters``) of the parameters
to train; by default all are trained. Frozen parameters have no optimiser and are not in checkpoints. If they are on the
device already, the live model shares the original's tensors.
"""

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
from guidegraph.graph.training.options import linkable_options
from guidegraph.graph.training.ranks import ProcessGroup
from guidegraph.graph.values.output_check import ABSENT

if TYPE_CHECKING:
    import torch
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from guidegraph.graph.frozen_models import deepcopy_module

if TYPE_CHECKING:
    import torch
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from guidegraph.graph.training.fit import OptimisedModel


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


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
LEAST_SIDE = 32
"""The fewest rows and columns of a matrix that Muon trains. Narrower ones are a network's first and last layers."""
WEIGHT_DECAY = 0.01
"""Of Muon and its AdamW, if an entry has none, as AdamW's own. torch's Muon has 0.1."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def make_optimisers(
    spec: OptimisedModel, model: nn.Module, parameters: Sequence[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model's parameters: one, or Muon for its matrices and AdamW for all others."""
    options = {k: v for k, v in spec.options.items() if k in ("betas", "weight_decay", "eps", "momentum")}
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    if spec.optimizer != "muon":
        return [OPTIMISERS[spec.optimizer](parameters, lr=spec.lr, **options)]
    momentum = {"momentum": options.pop("momentum")} if "momentum" in options else {}
    options.setdefault("weight_decay", WEIGHT_DECAY)
    hidden = {id(weight) for weight in list_matrices(model)}
    weights = [parameter for parameter in parameters if id(parameter) in hidden]
    remaining = [parameter for parameter in parameters if id(parameter) not in hidden]
    optimisers: list[torch.optim.Optimizer] = []
    if weights:
        optimisers.append(Muon(weights, lr=spec.lr, weight_decay=options["weight_decay"], **momentum))
    if remaining:
        optimisers.append(torch.optim.AdamW(remaining, lr=spec.lr, **options))
    return optimisers


def list_state_names(optimiser: torch.optim.Optimizer) -> frozenset[str]:
    """The names of the tensors that an optimiser keeps of each parameter that it has updated."""
    if isinstance(optimiser, (torch.optim.Adam, torch.optim.AdamW)):
        return frozenset({"step", "exp_avg", "exp_avg_sq"})
    return frozenset({"momentum_buffer"})


def list_matrices(model: nn.Module) -> Iterator[Tensor]:
    """The weights that Muon trains: of linear layers and convolutions with ``LEAST_SIDE`` rows and columns or more."""
    for module in model.modules():
        if isinstance(module, LAYERS):
            weight = module.weight
            if min(len(weight), weight.numel() // len(weight)) >= LEAST_SIDE:
                yield weight


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic polynomial, whose slope at zero is steep. It takes singular values near one, to 0.7 to 1.2."""
ITERATIONS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Trains weights of linear layers and convolutions, (rows, …), as matrices (rows, columns).

    An update is scaled by 0.2 √max(rows, columns), so that its root mean square is that of AdamW's, and both take
    the same learning rate (Liu et al. 2025, equation 4). momentum: Nesterov's, in [0, 1). weight_decay: decoupled, as
    AdamW's.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights from their gradients. closure: not called."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(group["lr"] * self._compute_update(weight, group["momentum"]))

    def _compute_update(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """The scaled orthogonal matrix of a weight's momentum, in the weight's shape."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight.grad)
        average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        matrix = weight.grad.lerp(average, momentum).reshape(len(weight), -1)
        scale = 0.2 * float(max(matrix.shape)) ** 0.5
        return orthogonalise(matrix).mul_(scale).to(weight.dtype).reshape(weight.shape)


def orthogonalise(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with singular values moved to 0.7 to 1.2 by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    tall = len(matrix) > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix).float()
    x = x / x.norm().clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x

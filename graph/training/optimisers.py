"""The optimisers of a model in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guidegraph.graph.training.muon import Muon

if TYPE_CHECKING:
    from guidegraph.graph.training.fit import OptimisedModel

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

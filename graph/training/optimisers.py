"""The optimisers of a model in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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


class WeightMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) for weights of linear layers and convolutions, (rows, …), as matrices (rows, columns).

    An update is scaled by 0.2 √max(rows, columns), so that its root mean square is that of AdamW's, and both take
    the same learning rate (Liu et al. 2025, equation 4). The weights share their memory with the matrices.
    """

    def __init__(self, weights: Iterable[nn.Parameter], **options: Any) -> None:
        self._weights = [*weights]
        matrices = [nn.Parameter(_as_matrix(weight, weight.detach())) for weight in self._weights]
        super().__init__(matrices, adjust_lr_fn="match_rms_adamw", **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the weights from their gradients. closure: not called."""
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            matrix.grad = None if weight.grad is None else _as_matrix(weight, weight.grad)
        super().step()  # type: ignore[no-untyped-call]  # torch's

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients of the weights."""
        super().zero_grad(set_to_none)
        for weight in self._weights:
            weight.grad = None


def _as_matrix(weight: Tensor, values: Tensor) -> Tensor:
    """Values (rows, …) as a matrix (rows, columns), with the columns in the order in which the weight is stored.

    It shares memory with the weight's own values. The order of columns changes nothing in an orthogonalised update but
    their order.
    """
    axes = sorted(range(1, weight.ndim), key=weight.stride, reverse=True)
    return values.permute(0, *axes).reshape(len(values), -1)


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
        optimisers.append(WeightMuon(weights, lr=spec.lr, weight_decay=options["weight_decay"], **momentum))
    if remaining:
        optimisers.append(torch.optim.AdamW(remaining, lr=spec.lr, **options))
    return optimisers


def list_matrices(model: nn.Module) -> Iterator[Tensor]:
    """The weights that Muon trains: of linear layers and convolutions with ``LEAST_SIDE`` rows and columns or more."""
    for module in model.modules():
        if isinstance(module, LAYERS):
            weight = module.weight
            if min(len(weight), weight.numel() // len(weight)) >= LEAST_SIDE:
                yield weight

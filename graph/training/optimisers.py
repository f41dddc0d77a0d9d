"""The optimisers of a trained model, among them Muon (Jordan et al. 2024): updates of matrices that are orthogonal.

torch's own ``torch.optim.Muon`` iterates in bfloat16, which processors without it emulate: there a training step of a
U-Net took four times as long as with this one, which iterates in float32, and in bfloat16 inside ``torch.autocast``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

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

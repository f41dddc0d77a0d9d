"""Muon (Jordan et al. 2024): updates of matrices that are orthogonal.

torch's own ``torch.optim.Muon`` iterates in bfloat16, which processors without it emulate: there a training step of a
U-Net took four times as long as with this one, which iterates in float32, and in bfloat16 inside ``torch.autocast``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

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

"""A gradient reaches every input that changes the result, unless the case says why it should not."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.export.leaves import Leaf
from guidegraph.graph.node import Port
from guidegraph.nodes.types import Timesteps
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Inapplicable
from guidegraph.testing.values import Arguments, arguments, call, changed, difference, leaves_out, only_traceable

REMEDY = (
    "compute with tensors, without .detach(), .data, .item(), torch.no_grad() or torch.tensor(x); or say why no "
    "gradient goes through: NodeCase(…, detached={'port': 'reason'})"
)


def check_gradients(case: NodeCase) -> None:
    """The float outputs can be differentiated with respect to the float inputs, where these require a gradient."""
    only_traceable(case)
    given = arguments(case)
    wanted = {port.name for port, leaf in given.leaves(case) if _is_wanted(port, leaf)} - set(case.detached)
    if not wanted:
        raise Inapplicable(_reason(case) or "no input is a tensor of floats")
    plain = call(case, given)
    if not [1 for _, leaf in leaves_out(case, plain) if leaf.tensor.is_floating_point()]:
        raise Inapplicable("no output is a tensor of floats")
    for name in given.ports:
        if name in wanted:
            _reaches(case, given, name, plain)


def _reason(case: NodeCase) -> str:
    return "; ".join(f"'{name}' is detached by design: {reason}" for name, reason in case.detached.items())


def _is_wanted(port: Port, leaf: Leaf) -> bool:
    return not port.setting and leaf.tensor.dtype == torch.float32 and Timesteps not in port.type.alternatives


def _reaches(case: NodeCase, given: Arguments, name: str, plain: dict[str, Any]) -> None:
    """Raises ``Nonconforming`` where the result changes with a port, and has no gradient with respect to it."""
    inputs: list[tuple[str, Tensor]] = []

    def required(port: Port, leaf: Leaf) -> Tensor:
        tensor: Tensor = leaf.tensor
        if port.name != name or not _is_wanted(port, leaf):
            return tensor
        own = tensor.detach().clone().requires_grad_()
        inputs.append((leaf.named(port.name), own))
        return own

    outputs = call(case, given.mapped(case, required), grad=True)
    floats = [leaf.tensor for _, leaf in leaves_out(case, outputs) if leaf.tensor.is_floating_point()]
    followed = [tensor for tensor in floats if tensor.requires_grad]
    gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if followed:
        total = sum((tensor * _weights(tensor)).sum() for tensor in followed)
        assert isinstance(total, Tensor)
        gradients = torch.autograd.grad(total, [tensor for _, tensor in inputs], allow_unused=True)
    for (place, tensor), gradient in zip(inputs, gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            other = given.mapped(case, partial(_other, place))
            if _differs(case, call(case, other), plain):
                raise case.error(
                    f"a gradient of the result with respect to '{place}'",
                    "none, though the result changes with it"
                    if gradient is None
                    else "zeros, though the result changes",
                    REMEDY,
                )
        elif not bool(gradient.isfinite().all()):
            raise case.error(
                f"a finite gradient with respect to '{place}'",
                f"{int((~gradient.isfinite()).sum())} of {tensor.numel()} entries are not finite",
                "clamp before a root or a division: x.clamp(min=…).sqrt()",
            )


def _differs(case: NodeCase, found: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Whether the floats of two results differ; whole numbers have no gradient."""
    pairs = zip(leaves_out(case, found), leaves_out(case, plain), strict=True)
    return any(difference(a.tensor, b.tensor) > 1e-4 for (_, a), (_, b) in pairs if b.tensor.is_floating_point())


def _other(place: str, port: Port, leaf: Leaf) -> Tensor:
    tensor: Tensor = leaf.tensor
    other: Tensor = changed(tensor) if leaf.named(port.name) == place else tensor
    return other


def _weights(tensor: Tensor) -> Tensor:
    """Weights that differ, so that sums which are constant, as of a normalised value, do not hide a gradient."""
    return (
        torch.linspace(0.5, 1.5, tensor.numel(), dtype=tensor.dtype, device=tensor.device).reshape(tensor.shape).cos()
    )

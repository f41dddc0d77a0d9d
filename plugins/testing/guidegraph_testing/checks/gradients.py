"""Every input that affects the result has a gradient, unless the case gives a reason."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.export.partition.leaves import Leaf
from guidegraph.graph.port import Port
from guidegraph.nodes.types import Timesteps
from guidegraph_testing.arguments import Arguments, call_node, make_arguments, output_leaves, perturb, require_traceable
from guidegraph_testing.case import Inapplicable, NodeCase
from guidegraph_testing.comparison import difference

REMEDY = (
    "compute with tensors, without .detach(), .data, .item(), torch.no_grad() or torch.tensor(x); or say why no "
    "gradient goes through: NodeCase(…, detached={'port': 'reason'})"
)


def check_gradients(case: NodeCase) -> None:
    """The float outputs are differentiable with respect to the float inputs."""
    require_traceable(case)
    args = make_arguments(case)
    differentiable = {port.name for port, leaf in args.leaves(case) if _needs_gradient(port, leaf)} - set(case.detached)
    if not differentiable:
        reasons = [f"'{name}' is detached by design: {reason}" for name, reason in case.detached.items()]
        raise Inapplicable("; ".join(reasons) or "no input is a tensor of floats")
    plain = call_node(case, args)
    if not [1 for _, leaf in output_leaves(case, plain) if leaf.tensor.is_floating_point()]:
        raise Inapplicable("no output is a tensor of floats")
    for name in args.ports:
        if name in differentiable:
            _check_gradient(case, args, name, plain)


def _needs_gradient(port: Port, leaf: Leaf) -> bool:
    return not port.setting and leaf.tensor.dtype == torch.float32 and Timesteps not in port.type.alternatives


def _check_gradient(case: NodeCase, args: Arguments, name: str, plain: dict[str, Any]) -> None:
    """Raise ``Nonconforming`` if the result depends on a port but has no gradient with respect to it."""
    inputs: list[tuple[str, Tensor]] = []

    def require_grad(port: Port, leaf: Leaf) -> Tensor:
        tensor: Tensor = leaf.tensor
        if port.name != name or not _needs_gradient(port, leaf):
            return tensor
        own = tensor.detach().clone().requires_grad_()
        inputs.append((leaf.full_name(port.name), own))
        return own

    outputs = call_node(case, args.map_tensors(case, require_grad), grad=True)
    floats = [leaf.tensor for _, leaf in output_leaves(case, outputs) if leaf.tensor.is_floating_point()]
    differentiable = [tensor for tensor in floats if tensor.requires_grad]
    gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if differentiable:
        total = sum((tensor * _weights(tensor)).sum() for tensor in differentiable)
        assert isinstance(total, Tensor)
        gradients = torch.autograd.grad(total, [tensor for _, tensor in inputs], allow_unused=True)
    for (path, tensor), gradient in zip(inputs, gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            changed_args = args.map_tensors(case, partial(_perturb_leaf, path))
            pairs = zip(output_leaves(case, call_node(case, changed_args)), output_leaves(case, plain), strict=True)
            compared = ((a.tensor, b.tensor) for (_, a), (_, b) in pairs if b.tensor.is_floating_point())
            if any(difference(a, b) > 1e-4 for a, b in compared):
                raise case.error(
                    f"a gradient of the result with respect to '{path}'",
                    "none, though the result changes with it"
                    if gradient is None
                    else "zeros, though the result changes",
                    REMEDY,
                )
        elif not bool(gradient.isfinite().all()):
            raise case.error(
                f"a finite gradient with respect to '{path}'",
                f"{int((~gradient.isfinite()).sum())} of {tensor.numel()} elements are not finite",
                "clamp before a root or a division: x.clamp(min=…).sqrt()",
            )


def _perturb_leaf(path: str, port: Port, leaf: Leaf) -> Tensor:
    tensor: Tensor = leaf.tensor
    other: Tensor = perturb(tensor) if leaf.full_name(port.name) == path else tensor
    return other


def _weights(tensor: Tensor) -> Tensor:
    """Unequal weights, so that a constant sum (of a normalised value, say) does not hide a gradient."""
    return (
        torch.linspace(0.5, 1.5, tensor.numel(), dtype=tensor.dtype, device=tensor.device).reshape(tensor.shape).cos()
    )

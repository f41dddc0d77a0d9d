"""A session of onnxruntime as a `Denoiser`: torch's tensors go in and come out where they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from guidegraph.nodes.types import Condition, Prediction

if TYPE_CHECKING:
    from guidegraph_runtime.manifest import Tensor as Described
    from guidegraph_runtime.sessions import Session


class OnnxDenoiser:
    """`(x, t, condition) -> Prediction` of a part with inputs x, t and fields of a condition, and an output `value`.

    On a CPU both runtimes have the same memory; on a GPU the session reads torch's, and torch what it wrote.
    nbytes: what its weights take.
    """

    def __init__(self, session: Session, kind: Any, honours_mask: bool, nbytes: int) -> None:
        self.session, self.kind, self.honours_mask, self.nbytes = session, kind, honours_mask, nbytes

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        Floating tensors are cast to the graph's dtypes, and the prediction to that of x. Raises ``ValueError`` for what
        the graph does not take, and where a gradient is asked for.
        """
        given: dict[str, Tensor | None] = {"x": x, "t": t, **vars(condition)}
        if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in given.values()):
            raise ValueError(
                "an exported denoiser gives no gradient: take the one of model.load or checkpoint.load where a node "
                "differentiates through the denoiser, or guidance that does not"
            )
        self._check_absent(given)
        provider = self.session.provider
        device = torch.device("cpu") if provider.device == "cpu" else torch.device(provider.device, provider.device_id)
        tensors = {one.name: _fitted(one, given[one.name], device) for one in self.session.part.inputs}
        found = run_arrays(self.session, tensors) if device.type == "cpu" else run_on_device(self.session, tensors)
        value, variance = found["value"].to(x), found.get("variance")
        return Prediction(value, self.kind, None if variance is None else variance.to(x))

    def _check_absent(self, given: dict[str, Tensor | None]) -> None:
        taken = {one.name for one in self.session.part.inputs}
        for name, tensor in given.items():
            if tensor is None or name in taken or (name == "mask" and bool(tensor.all())):
                continue
            raise ValueError(
                f"this denoiser was exported with a condition of {', '.join(sorted(taken - {'x', 't'})) or 'nothing'}, "
                f"and got one with {name}: export it with such a condition as its example"
            )


def _fitted(described: Described, tensor: Tensor | None, device: torch.device) -> Tensor:
    """A tensor as the graph takes it, on the session's device."""
    if tensor is None:
        raise ValueError(
            f"this denoiser takes {described.name} in its condition, and got none: use the encoder of its model"
        )
    return tensor.detach().to(device, getattr(torch, described.dtype)).contiguous()


def run_arrays(session: Session, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a session on the CPU: arrays share memory with tensors."""
    found = session.run({name: tensor.numpy() for name, tensor in tensors.items()})
    return {name: torch.from_numpy(array) for name, array in found.items()}


def run_on_device(session: Session, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a session on the device of its inputs, with nothing copied to the host (DLPack)."""
    binding = session.bind()
    for name, tensor in tensors.items():
        shared = _Flags(tensor) if tensor.dtype == torch.bool else tensor
        binding.set(name, session.guard(session.onnxruntime.OrtValue.from_dlpack, shared))
        if tensor.is_cuda:  # onnxruntime computes on a stream of its own, and waits for it at the end of a run
            torch.cuda.current_stream(tensor.device).synchronize()
    return {name: from_dlpack(value) for name, value in binding.run().items()}


class _Flags:
    """A tensor of truth values as onnxruntime reads it: bytes that are said to be such values."""

    dtype = "bool"

    def __init__(self, tensor: Tensor) -> None:
        self.bytes = tensor.view(torch.uint8)

    def __dlpack__(self) -> Any:
        return self.bytes.__dlpack__()

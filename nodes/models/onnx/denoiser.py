"""An onnxruntime session as a `Denoiser`: torch tensors go in and come out without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from guidegraph.nodes.models.onnx.ports import GraphPorts, describe_tensors, expand_constant, fit_input, is_unbatched
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction, PredictionKind
from guidegraph_runtime.errors import BundleError

if TYPE_CHECKING:
    from guidegraph_runtime.bundle.manifest_types import Tensor as Declared
    from guidegraph_runtime.sessions.sessions import Session

Fields = Mapping[str, Tensor | None]


class OnnxDenoiser:
    """`(x, t, condition) -> Prediction` of a graph; `ports` maps fields to its inputs and outputs.

    The two runtimes share memory, on a CPU and on a GPU. nbytes: size of the weights.
    """

    not_exportable = (
        "is an ONNX graph already, which a graph cannot hold; export the workflow with the model that the graph was "
        "exported from: model.load or checkpoint.load in place of onnx.denoiser"
    )

    def __init__(self, session: Session, ports: GraphPorts, honours_mask: bool, nbytes: int) -> None:
        self.session, self.ports, self.honours_mask, self.nbytes = session, ports, honours_mask, nbytes

    @property
    def kind(self) -> PredictionKind:
        """The kind of every prediction."""
        return self.ports.kind

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        Floating tensors are cast to the graph's dtypes, and the prediction to the dtype of x. A graph for one sample,
        or for one t when the batch's times differ, runs once for each sample. Raises ``ValueError`` for inputs that the
        graph does not take, for outputs that do not fit, where a gradient is required, and while a graph is traced.
        """
        if not has_values(x):
            raise ValueError(
                "an exported denoiser is a graph already, and cannot be traced into another one: export the workflow "
                "that it is from, with the denoiser of model.load or checkpoint.load"
            )
        fields: Fields = {"x": x, "t": t, **vars(condition)}
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in fields.values()):
            raise ValueError(
                "an exported denoiser gives no gradient: take the one of model.load or checkpoint.load where a node "
                "differentiates through the denoiser, or guidance that does not"
            )
        self._check_unused(fields)
        batch = x.shape[0]
        if batch == 1 or not self._runs_by_sample(t):  # otherwise sample by sample
            return self._run(fields, batch)
        samples = [
            self._run({name: None if tensor is None else tensor[i : i + 1] for name, tensor in fields.items()}, 1)
            for i in range(batch)
        ]
        variances = [prediction.variance for prediction in samples if prediction.variance is not None]
        return Prediction(
            torch.cat([prediction.value for prediction in samples]),
            self.ports.kind,
            torch.cat(variances) if variances else None,
        )

    def _runs_by_sample(self, t: Tensor) -> bool:
        """Whether the graph must run sample by sample: a field takes one sample, or one t for unlike times."""
        unbatched = [declared.name for declared in self.session.part.inputs if is_unbatched(declared)]
        single_fields = {key for name in unbatched for key in self.ports.inputs.get(name, ())}
        return bool(single_fields - {"t"}) or ("t" in single_fields and bool((t != t[0]).any()))

    def _run(self, fields: Fields, batch: int) -> Prediction:
        provider = self.session.provider
        device = torch.device("cpu") if provider.device == "cpu" else torch.device(provider.device, provider.device_id)
        tensors = {
            declared.name: self._build_input(declared, fields, batch, device) for declared in self.session.part.inputs
        }
        run = run_arrays if device.type == "cpu" else run_on_device
        try:
            outputs = run(self.session, tensors)
        except BundleError as error:
            raise ValueError(str(error)) from error
        x = fields["x"]
        assert x is not None
        return self._read_prediction(outputs, x)

    def _build_input(self, declared: Declared, fields: Fields, batch: int, device: torch.device) -> Tensor:
        if declared.name in self.ports.constants:
            return expand_constant(declared, self.ports.constants[declared.name], batch, device)
        values: dict[str, Tensor] = {}
        for name in self.ports.inputs[declared.name]:
            if (value := fields[name]) is None:
                raise ValueError(
                    f"this denoiser takes {name} in its condition, and got none: use the encoder of its model"
                )
            values[name] = value
        return fit_input(declared, values, device)

    def _read_prediction(self, outputs: Mapping[str, Tensor], x: Tensor) -> Prediction:
        fields = {key: outputs[name] for key, name in self.ports.outputs.items()}
        value, variance = fields["value"], fields.get("variance")
        are_halves = self.ports.outputs["value"] == self.ports.outputs.get("variance")
        if are_halves:
            if value.ndim != x.ndim or value.shape[1] != 2 * x.shape[1]:
                raise ValueError(
                    f"the graph's output '{self.ports.outputs['value']}' is named as value and as variance, so that it "
                    f"must have twice the {x.shape[1]} channels of x, and has the shape {tuple(value.shape)}: leave "
                    "variance out, or name another output as it"
                )
            value, variance = value.chunk(2, dim=1)
        for tensor in (value, variance):
            if tensor is not None and tensor.shape != x.shape:
                raise ValueError(
                    f"the graph's output has the shape {tuple(tensor.shape)}, and x {tuple(x.shape)}: they must be "
                    f"alike; where its second half of channels is a learned variance, name it under `outputs` as value "
                    f"and as variance. It gives {describe_tensors(self.session.part.outputs)}"
                )
        return Prediction(value.to(x), self.ports.kind, None if variance is None else variance.to(x))

    def _check_unused(self, fields: Fields) -> None:
        """Raise ``ValueError`` for fields of the condition that the graph does not take."""
        used = self.ports.fields
        for name, tensor in fields.items():
            if tensor is None or name in used or (name == "mask" and bool(tensor.all())):
                continue
            if self.ports.foreign:
                raise ValueError(
                    f"the condition has {name}, and nothing says which input of the graph takes it: name it under "
                    f"`inputs`, or leave it out of the condition. It takes {describe_tensors(self.session.part.inputs)}"
                )
            raise ValueError(
                f"this denoiser was exported with a condition of {', '.join(sorted(used - {'x', 't'})) or 'nothing'}, "
                f"and got one with {name}: export it with such a condition as its example"
            )


def run_arrays(session: Session, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a session on the CPU; the arrays share memory with the tensors."""
    arrays = session.run({name: tensor.numpy() for name, tensor in tensors.items()})
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def run_on_device(session: Session, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a session on the device of its inputs, without a copy to the CPU (DLPack)."""
    binding = session.bind()
    for name, tensor in tensors.items():
        shared = _Flags(tensor) if tensor.dtype == torch.bool else tensor
        binding.set(name, session.call_onnxruntime(session.onnxruntime.OrtValue.from_dlpack, shared))
        if tensor.is_cuda:  # onnxruntime has its own stream, and waits for it at the end of a run
            torch.cuda.current_stream(tensor.device).synchronize()
    return {name: from_dlpack(value) for name, value in binding.run().items()}


class _Flags:
    """A bool tensor as onnxruntime reads it: bytes declared as bool."""

    dtype = "bool"

    def __init__(self, tensor: Tensor) -> None:
        self.bytes = tensor.view(torch.uint8)

    def __dlpack__(self) -> Any:
        return self.bytes.__dlpack__()

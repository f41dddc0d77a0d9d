"""An ONNX file as a feature extractor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guidegraph.graph.errors import suggest
from guidegraph.nodes.models.extractors.torchscript import to_picture_range
from guidegraph.nodes.models.onnx.denoiser import run_arrays, run_on_device
from guidegraph.nodes.models.onnx.ports import describe_tensors
from guidegraph_runtime.errors import BundleError

if TYPE_CHECKING:
    from guidegraph_runtime.sessions.graph_file import GraphFile


class OnnxFeatures:
    """A `FeatureExtractor`: pictures, converted to the graph's range and size, to (B, D) float32.

    nbytes: the size of its weights. Raises ``ValueError`` for a graph with inputs other than pictures (B, 3, H, W), for
    a fractional range if it takes integers, and for an unknown `output`.
    """

    def __init__(self, file: GraphFile, output: str | None, range: str, size: int | None) -> None:
        self.session, self.nbytes, self.name = file.session, file.nbytes, file.path.name
        self.range, self.size = range, size
        inputs, outputs = self.session.part.inputs, [tensor.name for tensor in self.session.part.outputs]
        if len(inputs) != 1 or len(inputs[0].dims) != 4 or inputs[0].dims[1] not in (3, f"{inputs[0].name}.1"):
            raise ValueError(
                f"'{self.name}' must take pictures (B, 3, H, W) alone; it takes {describe_tensors(inputs)}"
            )
        if range in ("-1..1", "0..1") and not getattr(torch, inputs[0].dtype).is_floating_point:
            raise ValueError(
                f"'{self.name}' takes {describe_tensors(inputs)}, whole numbers: set `range` to uint8 or 0..255"
            )
        if output is None and len(outputs) > 1:
            raise ValueError(f"'{self.name}' gives {', '.join(outputs)}: set `output` to the name of the features")
        if output is not None and output not in outputs:
            raise ValueError(f"'{self.name}' has no output '{output}'; {suggest(output, outputs, 'outputs')}")
        self.input, self.output = inputs[0], output or outputs[0]

    def __call__(self, image: Tensor) -> tuple[Tensor]:
        """Features (B, D) of pictures (B, 3, H, W) in [-1, 1]; maps (B, D, 1, 1) count as features.

        Raises ``ValueError`` if the graph fails or gives another shape, and if a gradient is required.
        """
        if torch.is_grad_enabled() and image.requires_grad:
            raise ValueError(f"'{self.name}' is an ONNX graph, which gives no gradient: take features.efficientnet")
        provider = self.session.provider
        device = torch.device("cpu") if provider.device == "cpu" else torch.device(provider.device, provider.device_id)
        pictures = to_picture_range(image.detach(), self.range, self.size).to(device, getattr(torch, self.input.dtype))
        batch = self.input.dims[0]
        if not isinstance(batch, int):
            return (self._features(pictures.contiguous()).to(image.device),)
        chunks = pad_to_multiple(pictures, batch).split(batch)
        features = torch.cat([self._features(chunk.contiguous()) for chunk in chunks])
        return (features[: len(pictures)].to(image.device),)

    def _features(self, pictures: Tensor) -> Tensor:
        run = run_arrays if pictures.device.type == "cpu" else run_on_device
        try:
            features = run(self.session, {self.input.name: pictures})[self.output]
        except BundleError as error:
            raise ValueError(
                f"'{self.name}' failed on {pictures.dtype} pictures of shape {tuple(pictures.shape)}: {error}. It "
                f"takes {describe_tensors([self.input])}; look at `range` and `size`"
            ) from error
        if features.ndim == 4 and features.shape[2:] == (1, 1):
            features = features.flatten(1)
        if features.ndim != 2 or features.shape[0] != pictures.shape[0]:
            raise ValueError(
                f"'{self.name}' must give features (B, D), one row for each of {len(pictures)}; its output "
                f"'{self.output}' has the shape {tuple(features.shape)}"
            )
        return features.float()


def pad_to_multiple(pictures: Tensor, batch: int) -> Tensor:
    """The pictures (B, …), followed by as many repeats of the last as fill the last batch of a graph."""
    missing = -len(pictures) % batch
    return torch.cat([pictures, pictures[-1:].expand(missing, *pictures.shape[1:])]) if missing else pictures

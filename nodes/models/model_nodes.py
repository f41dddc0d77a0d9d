"""Nodes that load and save models, and that build new ones to train.

Settings that several untrained models share:
seed: of the initial weights. channels: the width at the finest resolution. multipliers: the width of each resolution
in units of `channels`, finest first. blocks: residual blocks per resolution. patch: patch × patch pixels are folded
into channels before the first convolution, and unfolded after the last. attention: the levels (0 is the finest) with
attention. heads: attention heads. layers: of a transformer. width: of the vector and the tokens of a condition.
classes: the number of classes. in_channels: channels of the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from annotated_types import Ge, MinLen

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.paths import resolve_path
from guidegraph.graph.types import Written
from guidegraph.nodes.models.model_json import AbsentPart, MissingPart, list_parts, read_index
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import (
    Autoencoder,
    Classifier,
    ConditionAdapter,
    Denoiser,
    ImageEmbedder,
    LabelEmbedder,
    PredictionKind,
    Schedule,
    Segmenter,
    TextEmbedder,
)
from guidegraph_runtime.files.regular_files import read_json

if TYPE_CHECKING:
    from torch import nn

Network = TypeVar("Network", bound="nn.Module")

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "sigmoid": schedules.sigmoid,
    "cosine": schedules.cosine,
    "flow": schedules.flow,
}


TRAINED_RANGE = ("trained_from", "trained_to")
"""The fields of a schedule with the range of timesteps that its model was trained on."""


class LoadedModel(NamedTuple):
    """The parts of a model: a diffusion model, its embedders of conditions, and networks that evaluate samples."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    text: TextEmbedder
    schedule: Schedule
    label: LabelEmbedder
    image: ImageEmbedder
    adapter: ConditionAdapter
    classifier: Classifier
    segmenter: Segmenter
    detector: Any


@node("model.load", host=True, provides=list_parts)
def load_model(*, path: Path) -> LoadedModel:
    """A model folder (model.json and safetensors), frozen, on the run's device and in its dtype.

    path: the folder; `pkg:scenes` and others ship with the package.
    A part that the folder does not hold raises an error on use.
    """
    from guidegraph.nodes.models import store

    stored = read_index(path)

    def part(name: str) -> Any:
        if name not in stored:
            return AbsentPart.of(path, name, stored)
        return store.load_part(path, name, device=current_device(), dtype=current_dtype())

    schedule = (
        read_schedule(path, stored["schedule"]) if "schedule" in stored else AbsentPart.of(path, "schedule", stored)
    )
    networks = {name: part(name) for name in LoadedModel._fields if name != "schedule"}
    return LoadedModel(schedule=schedule, **networks)  # type: ignore[arg-type]


def read_schedule(folder: Path, config: dict[str, Any]) -> Schedule:
    """The schedule that model.json names with its settings, or one from a table of ᾱ.

    trained_from, trained_to: the timesteps that the model was trained on, if model.json has them.
    """
    from safetensors.torch import load_file

    from guidegraph.nodes.models.store import locate_verified_file

    settings = {name: value for name, value in config.items() if name not in ("kind", *TRAINED_RANGE)}
    kind = config.get("kind")
    if kind != "table" and kind not in SCHEDULES:
        raise ValueError(f"unknown schedule {kind!r}; known are {', '.join((*SCHEDULES, 'table'))}")
    try:
        trained_range: dict[str, Any] = {
            name: float(config[name]) for name in TRAINED_RANGE if config.get(name) is not None
        }
        if kind == "table":
            table = load_file(locate_verified_file(folder, settings.get("weights")))["alphas_bar"].to(current_device())
            return Schedule(table, **trained_range)
        return replace(SCHEDULES[kind](**settings), **trained_range)
    except Exception as error:
        raise ValueError(f"part 'schedule' of '{folder}' cannot be loaded: {error}") from error


@node("model.save", pure=False, host=True)
def save_model(
    denoiser: Denoiser | None = None,
    autoencoder: Autoencoder | None = None,
    text: TextEmbedder | None = None,
    schedule: Schedule | None = None,
    label: LabelEmbedder | None = None,
    image: ImageEmbedder | None = None,
    adapter: ConditionAdapter | None = None,
    classifier: Classifier | None = None,
    segmenter: Segmenter | None = None,
    detector: Any = None,
    *,
    path: Annotated[Path, Written()],
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16",
) -> str:
    """Write the wired parts as a model folder that `model.load` reads, and return its path.

    Parts that the folder already holds and that are not wired stay unchanged. dtype: of the weights in the files; int8:
    of their matrices, with a scale for every 64 values, and float16 for the rest.
    """
    from safetensors.torch import save_file

    from guidegraph.nodes.models import store

    wired = {
        "denoiser": denoiser,
        "autoencoder": autoencoder,
        "text": text,
        "label": label,
        "image": image,
        "adapter": adapter,
        "classifier": classifier,
        "segmenter": segmenter,
        "detector": detector,
    }
    modules: dict[str, nn.Module] = {}
    for name, module in wired.items():
        if module is None:
            continue
        if isinstance(module, AbsentPart):
            raise MissingPart(f"there is no '{name}' to save: {module!r}")
        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"'{name}' is a {type(module).__name__}, not a network that can be saved")
        store.describe_part(module)  # a module that cannot be saved is refused before any file is written
        modules[name] = module
    if not modules and schedule is None:
        raise ValueError("there is nothing to save: wire at least one part")
    table: dict[str, Any] | None = None
    if schedule is not None:
        path.mkdir(parents=True, exist_ok=True)
        table = {"kind": "flow", "train_steps": schedule.train_steps, "shift": schedule.shift}
        if schedule.form != "flow":
            tensors = {"alphas_bar": schedule.alphas_bar.cpu().contiguous()}
            store.write_atomic(path / "schedule.safetensors", lambda file: save_file(tensors, file))
            table = {"kind": "table", "weights": "schedule.safetensors"}
        table |= {name: getattr(schedule, name) for name in TRAINED_RANGE if getattr(schedule, name) is not None}
    store.save_parts(path, modules, dtype=getattr(torch, dtype), schedule=table)
    return str(path)


Count = Annotated[int, Ge(1)]
Multipliers = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]


@node("model.autoencoder")
def new_autoencoder(
    *,
    seed: int = 0,
    channels: Count = 48,
    multipliers: Multipliers = (1, 2),
    blocks: Count = 1,
    patch: Count = 2,
    latent_channels: Count = 4,
    detail: Annotated[int, Ge(0)] = 0,
) -> Autoencoder:
    """An untrained KL autoencoder with f = patch · 2^(levels − 1), one level for each of `multipliers`.

    channels: width of the finest level; multipliers: the width of each level in units of it. blocks: residual blocks
    per level. patch: side in pixels of the patches that are folded into channels before the first convolution.
    latent_channels: channels of a latent. detail: channels of a last convolution at full resolution, which hides the
    borders of patches; 0 for none. seed: of the initial weights.
    """
    from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder

    config = AutoencoderConfig(
        latent_channels=latent_channels,
        channels=channels,
        multipliers=multipliers,
        blocks=blocks,
        patch=patch,
        detail=detail,
    )
    return build_untrained(lambda: KLAutoencoder(config), seed)


@node("model.pixels")
def new_pixel_space(*, channels: Count = 3) -> Autoencoder:
    """Pixels as their own latents, f = 1: nothing to train; autoencoder.measure_scale can measure the scale."""
    from guidegraph.nodes.models.own.autoencoder import PixelSpace, PixelSpaceConfig

    return PixelSpace(PixelSpaceConfig(channels)).eval()


@node("model.unet")
def new_unet(
    *,
    seed: int = 0,
    in_channels: Count = 4,
    channels: Count = 64,
    multipliers: Multipliers = (1, 2, 3),
    blocks: Count = 1,
    attention: tuple[Annotated[int, Ge(0)], ...] = (1, 2),
    heads: Count = 4,
    context_dim: Count | None = 128,
    vector_dim: Count | None = 128,
    spatial_channels: Annotated[int, Ge(0)] = 0,
    patch: Count = 1,
    learned_variance: bool = False,
    kind: PredictionKind = "v",
    coordinates: bool = False,
) -> Denoiser:
    """An untrained U-Net denoiser.

    context_dim: width of the condition's tokens; vector_dim: width of its vector; spatial_channels: channels of its
    map; null or 0 for a model without that condition. learned_variance: predict a variance too. kind: of the
    prediction, ε, x0, v or flow. coordinates: also see where each pixel is, as what lies left and right must.
    """
    from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser

    out_channels = 2 * in_channels if learned_variance else in_channels
    levels = (channels, multipliers, blocks, attention, heads)
    conditions = (context_dim, vector_dim, spatial_channels)
    config = UNetConfig(in_channels, out_channels, *levels, *conditions, patch, kind, coordinates)
    return build_untrained(lambda: UNetDenoiser(UNet(config)), seed)


@node("model.text_transformer")
def new_text_transformer(
    *,
    seed: int = 0,
    words: list[str] | None = None,
    width: Count = 128,
    layers: Count = 3,
    heads: Count = 4,
    length: Annotated[int, Ge(2)] = 24,
) -> TextEmbedder:
    """An untrained text encoder with a vocabulary of `words`, by default the words of the scene captions.

    length: tokens of a text with the one at its start; longer texts are cut.
    """
    from guidegraph.nodes.models.own.text_encoder import TextConfig, TextEncoder, TextModel, build_tokenizer

    if words is None:
        words = read_json(resolve_path("pkg:data/caption_words.json", Path()))
    tokenizer = build_tokenizer(words, length)
    config = TextConfig(tokenizer.get_vocab_size(), width=width, layers=layers, heads=heads, length=length)
    return build_untrained(lambda: TextModel(TextEncoder(config), tokenizer), seed)


@node("model.label_embedder")
def new_label_embedder(*, seed: int = 0, classes: Count = 10, width: Count = 128) -> LabelEmbedder:
    """An untrained embedder of class labels, and of the null class, as a condition's vector."""
    from guidegraph.nodes.models.own.text_encoder import LabelConfig, LabelModel

    return build_untrained(lambda: LabelModel(LabelConfig(classes=classes, width=width)), seed)


@node("model.classifier")
def new_classifier(
    *,
    seed: int = 0,
    classes: Count = 10,
    size: Count = 32,
    in_channels: Count = 1,
    channels: Count = 32,
    multipliers: Multipliers = (1, 2, 2),
    blocks: Count = 1,
    attention: tuple[Annotated[int, Ge(0)], ...] = (2,),
    heads: Count = 4,
    patch: Count = 1,
) -> Classifier:
    """An untrained classifier of samples (B, in_channels, size, size) at any noise level."""
    from guidegraph.nodes.models.own.classifier import ClassifierConfig, NoisyClassifier

    config = ClassifierConfig(classes, size, in_channels, channels, multipliers, blocks, attention, heads, patch)
    return build_untrained(lambda: NoisyClassifier(config), seed)


@node("model.segmenter")
def new_segmenter(
    *, seed: int = 0, classes: Count = 23, channels: Count = 24, multipliers: Multipliers = (1, 2, 3)
) -> Segmenter:
    """An untrained segmenter, by default for the classes of scenes."""
    from guidegraph.nodes.models.own.classifier import SegmentationNet, SegmenterConfig

    config = SegmenterConfig(classes=classes, channels=channels, multipliers=multipliers)
    return build_untrained(lambda: SegmentationNet(config), seed)


@node("model.image_embedder")
def new_image_embedder(
    *,
    seed: int = 0,
    width: Count = 128,
    tokens: Annotated[int, Ge(0)] = 0,
    channels: Count = 32,
    multipliers: Multipliers = (1, 2, 3),
) -> ImageEmbedder:
    """An untrained embedder of pictures as a condition's vector and tokens.

    tokens: number of tokens made from the pooled features; 0 for a vector alone.
    """
    from guidegraph.nodes.models.own.text_encoder import ImageModel, VisionConfig

    config = VisionConfig(width=width, tokens=tokens, channels=channels, multipliers=multipliers)
    return build_untrained(lambda: ImageModel(config), seed)


@node("model.condition_adapter")
def new_condition_adapter(
    *,
    seed: int = 0,
    tokens: Count = 384,
    vector: Count = 384,
    width: Count = 128,
    layers: Count = 1,
    heads: Count = 4,
) -> ConditionAdapter:
    """An untrained adapter of conditions; the default widths fit MiniLM and `pkg:scenes`.

    tokens: width of its input tokens; vector: width of its input vector.
    """
    from guidegraph.nodes.models.own.condition_adapter import AdapterConfig
    from guidegraph.nodes.models.own.condition_adapter import AdapterModel as Adapter

    config = AdapterConfig(tokens=tokens, vector=vector, width=width, layers=layers, heads=heads)
    return build_untrained(lambda: Adapter(config), seed)


def build_untrained(build: Callable[[], Network], seed: int) -> Network:
    """Build a frozen module, on the run's device; its initial weights depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
    return module.to(current_device()).eval().requires_grad_(False)

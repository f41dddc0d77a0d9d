"""Models on disk: a folder with model.json and one safetensors file for each part.

model.json is {"format": 1, "parts": {NAME: {"kind": …, "config": {…}, "weights": FILE, …}}}. The part
`schedule` holds no network: it names a schedule and its settings, or a file with ᾱ. model.json also has checksums,
which are verified when a part is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from guidegraph.nodes.models.checksums import CHECKSUMS, compute_checksums, read_checksums, verify_file
from guidegraph.nodes.models.model_json import FORMAT, INDEX, locate_file, read_index, read_json
from guidegraph.nodes.models.networks.hooks import HookedModel
from guidegraph.nodes.models.networks.low_rank import low_rank_layers
from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder, VQAutoencoder, VQConfig
from guidegraph.nodes.models.own.classifier import ClassifierConfig, NoisyClassifier
from guidegraph.nodes.models.own.condition_adapter import AdapterConfig, AdapterModel
from guidegraph.nodes.models.own.denoiser import UNetDenoiser
from guidegraph.nodes.models.own.detector import Detector, DetectorConfig
from guidegraph.nodes.models.own.image_embedder import ImageModel, VisionConfig
from guidegraph.nodes.models.own.label_embedder import LabelConfig, LabelModel
from guidegraph.nodes.models.own.pixel_space import PixelSpace, PixelSpaceConfig
from guidegraph.nodes.models.own.segmenter import SegmentationNet, SegmenterConfig
from guidegraph.nodes.models.own.text_encoder import TextConfig, TextEncoder, TextModel
from guidegraph.nodes.models.own.unet import UNet, UNetConfig
from guidegraph_runtime.files.atomic_write import atomic_path


def locate_verified_file(folder: Path, name: object) -> Path:
    """The path of a file of a model folder, after its checksum was verified. Raises ``ValueError``."""
    path = locate_file(folder, name)
    verify_file(path, read_checksums(read_json(folder / INDEX), folder / INDEX))
    return path


def build_unet(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return UNetDenoiser(UNet(UNetConfig(**config)))


def build_autoencoder(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return KLAutoencoder(AutoencoderConfig(**config))


def build_vq_autoencoder(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return VQAutoencoder(VQConfig(**config))


def build_text(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    tokenizer = Tokenizer.from_file(str(locate_verified_file(folder, part.get("tokenizer"))))
    return TextModel(TextEncoder(TextConfig(**config)), tokenizer)


def build_detector(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return Detector(DetectorConfig(**config))


def build_classifier(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return NoisyClassifier(ClassifierConfig(**config))


def build_labels(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return LabelModel(LabelConfig(**config))


def build_segmenter(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return SegmentationNet(SegmenterConfig(**config))


def build_pixel_space(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return PixelSpace(PixelSpaceConfig(**config))


def build_vision(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return ImageModel(VisionConfig(**config))


def build_adapter(config: dict[str, Any], folder: Path, part: Mapping[str, Any]) -> nn.Module:
    return AdapterModel(AdapterConfig(**config))


BUILDERS: dict[str, Callable[[dict[str, Any], Path, Mapping[str, Any]], nn.Module]] = {
    "unet": build_unet,
    "kl_autoencoder": build_autoencoder,
    "vq_autoencoder": build_vq_autoencoder,
    "pixel_space": build_pixel_space,
    "text_transformer": build_text,
    "detector": build_detector,
    "noisy_classifier": build_classifier,
    "label_embedding": build_labels,
    "segmenter": build_segmenter,
    "image_embedding": build_vision,
    "condition_adapter": build_adapter,
}


def load_part(folder: Path, name: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Load one network of a model folder, frozen: in evaluation mode and without gradients."""
    parts = read_index(folder)
    if name not in parts:
        raise ValueError(f"'{folder}' has no part '{name}'; it has {', '.join(parts)}")
    part = parts[name]
    builder = BUILDERS.get(str(part.get("kind")))
    if builder is None:
        raise ValueError(
            f"{folder / INDEX}: part '{name}' is of unknown kind {part.get('kind')!r}; known are {', '.join(BUILDERS)}"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are random, and torch's generator is the caller's
            module = builder(dict(part.get("config", {})), folder, part)
        module.load_state_dict(load_file(locate_verified_file(folder, part.get("weights"))))
    except Exception as error:  # from the file, the tokenizer, or a config that fits no network
        raise ValueError(f"part '{name}' of '{folder}' cannot be loaded: {error}") from error
    frozen: nn.Module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return frozen


def describe_part(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return the kind and the config from which `load_part` rebuilds a module."""
    if isinstance(module, HookedModel) and module.hooks.rules:
        names = ", ".join(site.name for site in module.hooks.rules)
        raise ValueError(
            f"a denoiser with rules cannot be saved, and this one has some at {names}: wire the one without"
        )
    if any(low_rank_layers(module)):
        raise ValueError(
            "a denoiser with a LoRA to train cannot be saved as a model: save the LoRA by lora.save, or wire the "
            "denoiser of lora.merge"
        )
    match module:
        case UNetDenoiser():
            return "unet", asdict(module.network.config)
        case KLAutoencoder():
            return "kl_autoencoder", asdict(module.config)
        case VQAutoencoder():
            return "vq_autoencoder", asdict(module.config)
        case PixelSpace():
            return "pixel_space", asdict(module.config)
        case TextModel():
            return "text_transformer", asdict(module.encoder.config)
        case Detector():
            return "detector", asdict(module.config)
        case NoisyClassifier():
            return "noisy_classifier", asdict(module.config)
        case LabelModel():
            return "label_embedding", asdict(module.config)
        case SegmentationNet():
            return "segmenter", asdict(module.config)
        case ImageModel():
            return "image_embedding", asdict(module.config)
        case AdapterModel():
            return "condition_adapter", asdict(module.config)
    raise ValueError(f"a {type(module).__name__} cannot be saved as a model part; known are {', '.join(BUILDERS)}")


def save_parts(
    folder: Path,
    modules: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype = torch.float16,
    schedule: Mapping[str, Any] | None = None,
) -> None:
    """Write networks to a model folder; other parts that are already in the folder stay.

    Floating weights are written in `dtype`. Every file is written under a temporary name and renamed, model.json last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    parts = read_index(folder) if index.is_file() else {}
    before = read_checksums(read_json(index), index) if index.is_file() else {}
    written: list[str] = []
    for name, module in modules.items():
        kind, config = describe_part(module)
        weights = f"{name}.safetensors"
        parts[name] = {"kind": kind, "config": config, "weights": weights}
        tensors = {key: to_storage(value, dtype) for key, value in module.state_dict().items()}
        write_atomic(folder / weights, partial(save_file, tensors))
        written.append(weights)
        if isinstance(module, TextModel):
            parts[name]["tokenizer"] = "tokenizer.json"
            write_atomic(folder / "tokenizer.json", partial(save_tokenizer, module.tokenizer))
            written.append("tokenizer.json")
    if schedule is not None:
        parts["schedule"] = dict(schedule)
        written += [schedule["weights"]] if "weights" in schedule else []
    content = {"format": FORMAT, "parts": parts, CHECKSUMS: compute_checksums(folder, parts, before, written)}
    text = json.dumps(content, indent=2) + "\n"
    write_atomic(index, lambda path: path.write_text(text, encoding="utf-8"))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """`Tokenizer.save`, for a path."""
    tokenizer.save(str(path))


def to_storage(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A contiguous copy on the CPU; floating tensors of at least one axis in `dtype`, single numbers as they are."""
    narrow = tensor.is_floating_point() and tensor.ndim > 0
    return tensor.detach().to(device="cpu", dtype=dtype if narrow else tensor.dtype).contiguous()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file beside `path`, then rename it. Raises ``WriteError``, for a full disk for example."""
    with atomic_path(path) as temporary:
        write(temporary)
        temporary.chmod(0o644)  # safetensors makes it readable for the owner only

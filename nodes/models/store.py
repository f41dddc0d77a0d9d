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
from guidegraph.nodes.models.networks.bounded_build import BoundedBuild
from guidegraph.nodes.models.networks.hooks import HookedModel
from guidegraph.nodes.models.networks.low_rank import low_rank_layers
from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder, VQAutoencoder, VQConfig
from guidegraph.nodes.models.own.box_detector import BoxDetector, BoxDetectorConfig
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
from guidegraph.nodes.models.transformers.denoiser import (
    DiTDenoiser,
    FluxDenoiser,
    MMDiTDenoiser,
    PixArtDenoiser,
    ZImageDenoiser,
)
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.flux import Flux, FluxConfig
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.models.transformers.pixart import PixArt, PixArtConfig
from guidegraph.nodes.models.transformers.z_image import ZImage, ZImageConfig
from guidegraph_runtime.files.atomic_write import atomic_path


def locate_verified_file(folder: Path, name: object) -> Path:
    """The path of a file of a model folder, after its checksum was verified. Raises ``ValueError``."""
    path = locate_file(folder, name)
    verify_file(path, read_checksums(read_json(folder / INDEX), folder / INDEX))
    return path


KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "unet": (UNetDenoiser, UNetConfig),
    "dit": (DiTDenoiser, DiTConfig),
    "mmdit": (MMDiTDenoiser, MMDiTConfig),
    "flux": (FluxDenoiser, FluxConfig),
    "z_image": (ZImageDenoiser, ZImageConfig),
    "pixart": (PixArtDenoiser, PixArtConfig),
    "kl_autoencoder": (KLAutoencoder, AutoencoderConfig),
    "vq_autoencoder": (VQAutoencoder, VQConfig),
    "pixel_space": (PixelSpace, PixelSpaceConfig),
    "text_transformer": (TextModel, TextConfig),
    "detector": (Detector, DetectorConfig),
    "box_detector": (BoxDetector, BoxDetectorConfig),
    "noisy_classifier": (NoisyClassifier, ClassifierConfig),
    "label_embedding": (LabelModel, LabelConfig),
    "segmenter": (SegmentationNet, SegmenterConfig),
    "image_embedding": (ImageModel, VisionConfig),
    "condition_adapter": (AdapterModel, AdapterConfig),
}
"""The kinds of part that model.json names: the class of its module and that of its config."""

NETWORKS: dict[type[nn.Module], type[nn.Module]] = {
    UNetDenoiser: UNet,
    DiTDenoiser: DiT,
    MMDiTDenoiser: MMDiT,
    FluxDenoiser: Flux,
    ZImageDenoiser: ZImage,
    PixArtDenoiser: PixArt,
}
"""The networks inside denoisers."""


def build_part(folder: Path, part: Mapping[str, Any]) -> nn.Module:
    """The module of a part, with random weights. Its kind is one of `KINDS`."""
    model, settings = KINDS[part["kind"]]
    config = settings(**part.get("config", {}))
    if model in NETWORKS:
        return model(NETWORKS[model](config))
    if model is TextModel:
        tokenizer = Tokenizer.from_file(str(locate_verified_file(folder, part.get("tokenizer"))))
        return TextModel(TextEncoder(config), tokenizer)
    return model(config)


def load_part(folder: Path, name: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Load one network of a model folder, frozen: in evaluation mode and without gradients."""
    parts = read_index(folder)
    if name not in parts:
        raise ValueError(f"'{folder}' has no part '{name}'; it has {', '.join(parts)}")
    part = parts[name]
    if str(part.get("kind")) not in KINDS:
        raise ValueError(
            f"{folder / INDEX}: part '{name}' is of unknown kind {part.get('kind')!r}; known are {', '.join(KINDS)}"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are random, and torch's generator is the caller's
            weights = load_file(locate_verified_file(folder, part.get("weights")))
            with BoundedBuild(len(weights)):
                module = build_part(folder, part)
        module.load_state_dict(weights)
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
    for kind, (model, _) in KINDS.items():
        if isinstance(module, model):
            config: Any = module.encoder.config if isinstance(module, TextModel) else module.config
            return kind, asdict(config)
    raise ValueError(f"a {type(module).__name__} cannot be saved as a model part; known are {', '.join(KINDS)}")


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

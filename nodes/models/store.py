"""Models on disk: a folder with model.json and one safetensors file for each part.

model.json is {"format": 1, "parts": {NAME: {"kind": …, "config": {…}, "weights": FILE, …}}}. The part
`schedule` is without a network: it names a schedule and its settings, or a file with ᾱ. model.json also has checksums,
which are verified when a part is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.model_json import (
    CHECKSUMS,
    FORMAT,
    INDEX,
    compute_checksums,
    locate_file,
    read_checksums,
    read_index,
    read_json,
    verify_file,
)
from guidegraph.nodes.models.networks.hooks import HookedModel
from guidegraph.nodes.models.networks.low_rank import low_rank_layers
from guidegraph.nodes.models.networks.shells import BoundedBuild
from guidegraph_runtime.files.atomic_write import atomic_path
from guidegraph_runtime.machine.optional_packages import package_command

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def locate_verified_file(folder: Path, name: object) -> Path:
    """The path of a file of a model folder, after its checksum was verified. Raises ``ValueError``."""
    path = locate_file(folder, name)
    verify_file(path, read_checksums(read_json(folder / INDEX), folder / INDEX))
    return path


def build_part(folder: Path, part: Mapping[str, Any]) -> nn.Module:
    """The module of a part, with random weights. Its kind is one of `KINDS`."""
    kind = KINDS[part["kind"]]
    model: Callable[..., nn.Module] = load_class(kind.model)
    config = load_class(kind.config)(**part.get("config", {}))
    if kind.network:
        return model(load_class(kind.network)(config))
    if part["kind"] == TEXT:
        from tokenizers import Tokenizer

        from guidegraph.nodes.models.own.text_encoder import TextEncoder

        tokenizer = Tokenizer.from_file(str(locate_verified_file(folder, part.get("tokenizer"))))
        return model(TextEncoder(config), tokenizer)
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
            weights = unpack_weights(load_file(locate_verified_file(folder, part.get("weights"))))
            with BoundedBuild(len(weights)):
                module = build_part(folder, part)
        _fill(module, weights)
    except Exception as error:  # from the file, the tokenizer, or a config that fits no network
        raise ValueError(f"part '{name}' of '{folder}' cannot be loaded: {error}") from error
    frozen: nn.Module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return frozen


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a module. Raises ``ValueError`` with the names of those that do not fit."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    faults = {
        "missing": sorted(shapes.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - shapes.keys()),
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in weights and tuple(weights[name].shape) != shape
        ],
    }
    if any(faults.values()):
        lists = [f"{fault}: {', '.join(names[:3])} ({len(names)} in all)" for fault, names in faults.items() if names]
        raise ValueError(f"its weights do not fit its config in {INDEX}: {'; '.join(lists)}")
    module.load_state_dict(weights)


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
    for name, kind in KINDS.items():
        # A module can be of a class of guidegraph-families only if that is imported.
        is_known = not kind.model.startswith(FAMILIES) or FAMILIES in sys.modules
        if is_known and isinstance(module, load_class(kind.model)):
            network: Any = module.encoder if name == TEXT else module
            return name, asdict(network.config)
    raise ValueError(f"a {type(module).__name__} cannot be saved as a model part; known are {', '.join(KINDS)}")


def save_parts(
    folder: Path,
    modules: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype = torch.float16,
    schedule: Mapping[str, Any] | None = None,
) -> None:
    """Write networks to a model folder; other parts that are already in the folder stay.

    dtype: as for `pack_weights`. Every file is written under a temporary name and renamed, model.json last.
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
        write_atomic(folder / weights, partial(save_file, pack_weights(module.state_dict(), dtype)))
        written.append(weights)
        if kind == TEXT:
            parts[name]["tokenizer"] = "tokenizer.json"
            write_atomic(folder / "tokenizer.json", partial(save_tokenizer, cast("Tokenizer", module.tokenizer)))
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


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file next to `path`, then rename it. Raises ``WriteError``, for example for a full disk."""
    with atomic_path(path) as temporary:
        write(temporary)
        temporary.chmod(0o644)  # safetensors makes it readable for the owner only


class PartKind(NamedTuple):
    """The classes of a part's module, of its config and, for a denoiser, of the network inside.

    Each is a module of this package, or of guidegraph-families, and a name in it.
    """

    model: str
    config: str
    network: str = ""


FAMILIES = "guidegraph_families"
TEXT = "text_transformer"
"""The kind of part that has a tokenizer as well as a network."""
KINDS: dict[str, PartKind] = {
    "unet": PartKind("own.unet.UNetDenoiser", "own.unet.UNetConfig", "own.unet.UNet"),
    "dit": PartKind("transformers.denoiser.DiTDenoiser", "transformers.dit.DiTConfig", "transformers.dit.DiT"),
    "mmdit": PartKind(
        "transformers.denoiser.MMDiTDenoiser", "transformers.mmdit.MMDiTConfig", "transformers.mmdit.MMDiT"
    ),
    **{
        name: PartKind(*(f"{FAMILIES}.{name}.network.{cls}{part}" for part in ("Denoiser", "Config", "")))
        for name, cls in (("flux", "Flux"), ("z_image", "ZImage"), ("pixart", "PixArt"))
    },
    "kl_autoencoder": PartKind("own.autoencoder.KLAutoencoder", "own.autoencoder.AutoencoderConfig"),
    "vq_autoencoder": PartKind("own.autoencoder.VQAutoencoder", "own.autoencoder.VQConfig"),
    "pixel_space": PartKind("own.autoencoder.PixelSpace", "own.autoencoder.PixelSpaceConfig"),
    TEXT: PartKind("own.text_encoder.TextModel", "own.text_encoder.TextConfig"),
    "detector": PartKind("own.box_detector.Detector", "own.box_detector.DetectorConfig"),
    "box_detector": PartKind("own.box_detector.BoxDetector", "own.box_detector.BoxDetectorConfig"),
    "noisy_classifier": PartKind("own.classifier.NoisyClassifier", "own.classifier.ClassifierConfig"),
    "label_embedding": PartKind("own.text_encoder.LabelModel", "own.text_encoder.LabelConfig"),
    "segmenter": PartKind("own.classifier.SegmentationNet", "own.classifier.SegmenterConfig"),
    "image_embedding": PartKind("own.text_encoder.ImageModel", "own.text_encoder.VisionConfig"),
    "condition_adapter": PartKind("own.condition_adapter.AdapterModel", "own.condition_adapter.AdapterConfig"),
}
"""The kinds of part that model.json names."""


def load_class(name: str) -> Any:
    """The class with one of the names of a ``PartKind``. Raises ``ValueError`` if its package is not installed."""
    module, _, cls = name.rpartition(".")
    is_released = module.startswith(FAMILIES)
    if is_released and find_spec(FAMILIES) is None:
        raise ValueError(f"{cls} is in the package guidegraph-families: {package_command('families')}")
    return getattr(import_module(module if is_released else f"{__package__}.{module}"), cls)


SCALE = ":scale"
"""What follows the name of an int8 tensor in the name of its scales; no name of a parameter has a colon."""
BLOCK = 64
"""Values that share a scale."""
LEAST = 1024
"""Smaller tensors stay float16 in a file of int8."""
LARGEST = 127


def pack_weights(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file for a module's state, contiguous and on the CPU.

    dtype: of floating tensors with at least one axis; single numbers stay as they are. int8: tensors of two axes or
    more, and of `LEAST` values or more, become int8 with scales, NAME:scale; the others become float16.
    Raises ``ValueError`` for a finite value that the dtype does not hold.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if dtype == torch.int8 and tensor.is_floating_point() and tensor.ndim > 1 and tensor.numel() >= LEAST:
            packed[name], packed[name + SCALE] = quantise(tensor.detach().cpu())
        else:
            packed[name] = to_storage(tensor, torch.float16 if dtype == torch.int8 else dtype)
        stored = packed.get(name + SCALE, packed[name])
        if not stored.isfinite().all() and tensor.isfinite().all():
            raise ValueError(
                f"'{name}' has values up to {float(tensor.abs().max()):g}, which {stored.dtype} does not hold: save in "
                "bfloat16 or float32"
            )
    return packed


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as int8 in [−127, 127] of the same shape, and a float16 scale for every `BLOCK` values in order.

    Their product differs from the weight by at most half a scale, and by half a per mille of the block's largest value.
    """
    blocks = F.pad(weight.float().reshape(-1), (0, -weight.numel() % BLOCK)).reshape(-1, BLOCK)
    smallest = torch.finfo(torch.float16).smallest_normal
    scale = (blocks.abs().amax(1) / LARGEST).clamp(min=smallest).half()
    values = (blocks / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return values.reshape(-1)[: weight.numel()].reshape(weight.shape).contiguous(), scale


def unpack_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's state from the tensors of a file; int8 with scales becomes float32. Raises ``ValueError``."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            if (weight := name.removesuffix(SCALE)) not in tensors:
                raise ValueError(f"'{name}' has the scales of no tensor: the file lacks '{weight}'")
        elif (scale := tensors.get(name + SCALE)) is None:
            state[name] = tensor
        else:
            blocks = -(-tensor.numel() // BLOCK)
            if tensor.dtype != torch.int8 or scale.dtype != torch.float16 or scale.shape != (blocks,):
                raise ValueError(
                    f"'{name}' has scales: expected int8 and a float16 for every {BLOCK} values, found {tensor.dtype} "
                    f"{tuple(tensor.shape)} and {scale.dtype} {tuple(scale.shape)}"
                )
            filled = F.pad(tensor.reshape(-1).float(), (0, -tensor.numel() % BLOCK))  # the last block with zeros
            values = filled.reshape(-1, BLOCK) * scale.float()[:, None]
            state[name] = values.reshape(-1)[: tensor.numel()].reshape(tensor.shape)
    return state


def to_storage(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the CPU; floating tensors of at least one axis in `dtype`, single numbers as they are."""
    narrow = tensor.is_floating_point() and tensor.ndim > 0
    return tensor.detach().to(device="cpu", dtype=dtype if narrow else tensor.dtype).contiguous()

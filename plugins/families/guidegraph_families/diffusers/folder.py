"""Loads folders that diffusers wrote: a pipeline with model_index.json, or a single denoiser or first stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.config_values import read_integer
from guidegraph.nodes.checkpoints.diffusers.config import check_config, read_json
from guidegraph.nodes.checkpoints.diffusers.schedule import CONFIG, read_scheduler
from guidegraph.nodes.checkpoints.folders import INDEX
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.models.transformers.mmdit import MMDiTConfig, sd3_tensors
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.diffusers import first_stage, unet
from guidegraph_families.diffusers.first_stage import read_component
from guidegraph_families.diffusers.text import (
    CHAT_CLASSES,
    T5_CLASSES,
    TEXT_CLASSES,
    load_flux_text,
    load_pixart_text,
    load_sd3_text,
    load_text,
    load_z_image_text,
)
from guidegraph_families.dit import folder as dit
from guidegraph_families.dit.single_file import build_dit
from guidegraph_families.flux import folder as flux
from guidegraph_families.flux.single_file import build_flux, is_flux
from guidegraph_families.flux.single_file import load_flux as load_flux_file
from guidegraph_families.guided_diffusion import build_schedule
from guidegraph_families.parts.infer_unet import build_denoiser
from guidegraph_families.parts.measure import build_config
from guidegraph_families.pixart import folder as pixart
from guidegraph_families.pixart.single_file import build_pixart
from guidegraph_families.sd3 import FLOW, build_mmdit
from guidegraph_families.z_image import folder as z_image
from guidegraph_families.z_image.single_file import build_z_image, is_z_image
from guidegraph_families.z_image.single_file import load_z_image as load_z_image_file

CLASS = "SD3Transformer2DModel"
USED = (
    "patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
    "caption_projection_dim", "pooled_projection_dim", "out_channels", "pos_embed_max_size", "dual_attention_layers",
)  # fmt: skip
IGNORED = ("sample_size",)
"""Without effect: the positions are in the file."""

FIXED: dict[str, tuple[Any, ...]] = {"qk_norm": (None, "rms_norm")}


def read_sd3_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> MMDiTConfig:
    """Read the hyper-parameters from a config.json of diffusers; `kind` is the prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    channels = read_integer(config, "in_channels", 16, path)
    heads = read_integer(config, "num_attention_heads", 18, path)
    width = heads * read_integer(config, "attention_head_dim", 64, path)
    if read_integer(config, "caption_projection_dim", 1152, path) != width:
        raise ValueError(f"'{path}': 'caption_projection_dim' is not the width of the heads, {width}")
    dual = config.get("dual_attention_layers", ())
    if not isinstance(dual, list | tuple) or not all(isinstance(index, int) for index in dual):
        raise ValueError(f"'{path}': 'dual_attention_layers' is {dual!r:.60}; expected a list of whole numbers")
    return build_config(
        MMDiTConfig,
        "MMDiT",
        str(path),
        in_channels=channels,
        out_channels=channels if config.get("out_channels") is None else read_integer(config, "out_channels", 16, path),
        patch=read_integer(config, "patch_size", 2, path),
        width=width,
        depth=read_integer(config, "num_layers", 18, path),
        heads=heads,
        hidden=4 * width,
        context_dim=read_integer(config, "joint_attention_dim", 4096, path),
        vector_dim=read_integer(config, "pooled_projection_dim", 2048, path),
        side=read_integer(config, "pos_embed_max_size", 96, path),
        qk_norm=config.get("qk_norm") is not None,
        dual=tuple(dual),
        kind=kind,
    )


UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "watermark")
"""Components that judge or mark pictures, or serve other inputs; not used for text to picture."""

LEGACY = "Transformer2DModel"
"""The class in released folders of DiT and PixArt: diffusers gave it to several networks before it named each."""

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "bert")

Component = tuple[str, str]


def load_diffusers(folder: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a diffusers folder, frozen, on the run's device and in its dtype.

    The parts are `denoiser`, `label` (of a network with classes), `autoencoder`, `text` and `schedule`, if present.
    Raises one ``ValueError`` that names the file for a component that is missing, damaged or not supported.
    """
    _refuse_settings(folder, options)
    if not (folder / INDEX).is_file():
        return _load_single(folder, options)
    index = read_json(folder / INDEX)
    components = _read_components(folder, index, options)
    transformer = _transformer_class(folder, components)
    _refuse_pipeline_settings(folder, transformer, options)
    kind: PredictionKind = FLOW if transformer in FLOWS else "eps"
    parts: dict[str, Any] = {}
    if "scheduler" in components:
        parts["schedule"], kind = read_scheduler(folder / "scheduler")
    if options.noise_schedule != "auto":
        parts["schedule"] = build_schedule(options.noise_schedule)
    if options.prediction != "auto":
        kind = options.prediction
    first = next((name for name in ("vae", "vqvae") if name in components), None)
    if first is not None:
        parts["autoencoder"] = load_autoencoder(folder / first)
    if "unet" in components:
        pixels = 8 if first is None else parts["autoencoder"].config.factor
        parts.update(load_unet(folder / "unet", kind, options.ema, pixels))
    if transformer is not None:
        parts.update(_load_transformer(folder, transformer, kind, options))
    if texts := {name: components[name][1] for name in TEXT_ENCODERS if name in components}:
        parts["text"] = _load_text(folder, texts, index, options, transformer, parts)
    return parts


def _transformer_class(folder: Path, components: Mapping[str, Component]) -> str | None:
    """The class of a pipeline's transformer, or None. A class of several networks is told apart by its config.json."""
    if "transformer" not in components:
        return None
    name = components["transformer"][1]
    return _resolve_class(name, read_json(folder / "transformer" / "config.json")) if name == LEGACY else name


def _resolve_class(name: str, config: Mapping[str, Any]) -> str:
    """The class of a network whose config.json names this one: `LEGACY` names a DiT or a PixArt."""
    return dit.CLASS if name == LEGACY and config.get("norm_type") == dit.NORM else name


def _refuse_settings(folder: Path, options: LoadOptions) -> None:
    """Raise ``ValueError`` for settings that every diffusers folder has."""
    if options.heads is not None or options.head_channels is not None or options.attention != "auto":
        raise ValueError(f"'{folder}' tells its attention in config.json: leave attention, heads and head_channels out")
    config_settings = ("scale", "shift", "upsample_heads", "groups", "config")
    if unused := [name for name in config_settings if getattr(options, name) is not None]:
        raise ValueError(f"'{folder}' is a diffusers folder, whose config.json says it: leave {', '.join(unused)} out")
    if unused := [name for name in ("tokenizer", "t5_tokenizer") if getattr(options, name) is not None]:
        raise ValueError(f"'{folder}' is a diffusers folder, which holds its tokenizers: leave {', '.join(unused)} out")


def _refuse_pipeline_settings(folder: Path, transformer: str | None, options: LoadOptions) -> None:
    """Raise ``ValueError`` for settings that a pipeline with a transformer of this class, or without any, does not
    use."""
    if transformer in (flux.CLASS, *pixart.CLASSES) and not options.t5:
        raise ValueError(f"'{folder}' is of a model that takes its tokens from T5 alone: leave t5 out")
    if transformer != CLASS:
        options.refuse_t5(str(folder))
    if options.transformer is not None and transformer not in REPLACEABLE:
        raise ValueError(
            f"'{folder}' is not a pipeline of Flux.1 or Z-Image, whose transformer may be another file's: leave "
            "transformer out"
        )


def _load_transformer(folder: Path, name: str, kind: PredictionKind, options: LoadOptions) -> dict[str, Any]:
    """Load the denoiser of a pipeline, from the file or folder that the options name, if any. name: its class."""
    path = options.transformer
    if path is not None and not path.is_dir():
        return _load_replacement(path, name, options)
    return TRANSFORMERS[name](folder / "transformer" if path is None else path, kind, options.ema)


def _load_replacement(path: Path, name: str, options: LoadOptions) -> dict[str, Any]:
    """Load the denoiser alone of a transformer's single file. Raises ``ValueError`` for a file of another class."""
    family, is_family, load_file = REPLACEABLE[name]
    tensors = read_tensors(path, averages=options.ema)
    if not is_family(tensors):
        listing = ", ".join(sorted(tensors)[:4])
        raise ValueError(f"'{path}' is not a transformer of {family}: found {len(tensors)} tensors, {listing}")
    return {"denoiser": load_file(tensors, path, options)["denoiser"]}


def _load_text(
    folder: Path,
    classes: Mapping[str, str],
    index: Mapping[str, Any],
    options: LoadOptions,
    transformer: str | None,
    parts: Mapping[str, Any],
) -> Any:
    """Load the text embedder of a pipeline; classes: of its text encoders. parts: those loaded before."""
    if transformer == CLASS:
        return load_sd3_text(folder, classes, parts["denoiser"].config, t5=options.t5)
    if transformer == flux.CLASS:
        return load_flux_text(folder, classes, parts["denoiser"].config)
    if transformer == z_image.CLASS:
        return load_z_image_text(folder, classes, parts["denoiser"].config)
    if transformer in pixart.CLASSES:
        return load_pixart_text(folder, parts["denoiser"].config, index)
    if "text_encoder_3" in classes:
        raise ValueError(f"'{folder}' has 'text_encoder_3', which only Stable Diffusion 3 is known to have")
    return load_text(folder, classes, index)


def load_unet(folder: Path, kind: PredictionKind, ema: bool, pixels: int = 8) -> dict[str, Any]:
    """Load the `denoiser` of a U-Net's folder and, if it was trained with classes, their `label` embedder.

    Without ema, takes the plain weights of a folder that also has moving averages. pixels: along each side of a
    latent's cell, which SDXL counts its picture's size by.
    """
    path = folder / "config.json"
    shape = replace(unet.read_unet_shape(read_json(path), path, kind), pixels=pixels)
    tensors = unet.unet_tensors(read_component(folder, ema), shape)
    return build_denoiser(shape, tensors, str(folder))


def load_dit(folder: Path, kind: PredictionKind, ema: bool) -> dict[str, Any]:
    """Load the `denoiser` and the `label` embedder of a DiT's folder."""
    path = folder / "config.json"
    config = dit.read_dit_config(read_json(path), path, kind)
    return build_dit(config, dit.dit_tensors(read_component(folder, ema), str(folder)), str(folder))


def load_sd3(folder: Path, kind: PredictionKind, ema: bool) -> dict[str, Any]:
    """Load the `denoiser` of the folder of Stable Diffusion 3's transformer."""
    path = folder / "config.json"
    config = read_sd3_config(read_json(path), path, kind)
    return build_mmdit(config, sd3_tensors(read_component(folder, ema), config), str(folder))


def load_flux(folder: Path, kind: PredictionKind, ema: bool) -> dict[str, Any]:
    """Load the `denoiser` of the folder of Flux.1's transformer."""
    path = folder / "config.json"
    config = flux.read_flux_config(read_json(path), path, kind)
    return build_flux(config, flux.flux_tensors(read_component(folder, ema), config), str(folder))


def load_z_image(folder: Path, kind: PredictionKind, ema: bool) -> dict[str, Any]:
    """Load the `denoiser` of the folder of Z-Image's transformer."""
    path = folder / "config.json"
    config = z_image.read_z_image_config(read_json(path), path, kind)
    return build_z_image(config, z_image.z_image_tensors(read_component(folder, ema), config), str(folder))


def load_pixart(folder: Path, kind: PredictionKind, ema: bool) -> dict[str, Any]:
    """Load the `denoiser` of a PixArt's folder."""
    path = folder / "config.json"
    config = pixart.read_pixart_config(read_json(path), path, kind)
    return build_pixart(config, pixart.pixart_tensors(read_component(folder, ema), config), str(folder))


TRANSFORMERS = {
    dit.CLASS: load_dit,
    CLASS: load_sd3,
    flux.CLASS: load_flux,
    z_image.CLASS: load_z_image,
    **dict.fromkeys(pixart.CLASSES, load_pixart),
}
"""Loaders of a transformer's folder, by its class."""

REPLACEABLE = {
    flux.CLASS: ("Flux.1", is_flux, load_flux_file),
    z_image.CLASS: ("Z-Image", is_z_image, load_z_image_file),
}
"""Transformers that may be another file's, by class: what they are called, the test of a file, and its loader."""

FLOWS = (CLASS, flux.CLASS, z_image.CLASS)
"""Transformers whose prediction is a flow's if no scheduler says otherwise."""


def load_autoencoder(folder: Path) -> Any:
    """Load the autoencoder of an `AutoencoderKL`'s or a `VQModel`'s folder."""
    path = folder / "config.json"
    config = read_json(path)
    return first_stage.load_first_stage(read_component(folder), config, path)


def _load_single(folder: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the part of a folder with a single network, and the schedule that the options name, if any."""
    options.refuse_t5(str(folder))
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    has_schedule = options.noise_schedule != "auto"
    parts: dict[str, Any] = {"schedule": build_schedule(options.noise_schedule)} if has_schedule else {}
    kind: PredictionKind = "eps" if options.prediction == "auto" else options.prediction
    if name in unet.CLASSES:
        return parts | load_unet(folder, kind, options.ema)
    if isinstance(name, str) and name in TRANSFORMERS:
        kind = FLOW if options.prediction == "auto" and name in FLOWS else kind
        return parts | TRANSFORMERS[_resolve_class(name, config)](folder, kind, options.ema)
    if name in first_stage.CLASSES:
        return parts | {"autoencoder": load_autoencoder(folder)}
    supported = ", ".join((*unet.CLASSES, *TRANSFORMERS, *first_stage.CLASSES))
    raise ValueError(
        f"'{folder / 'config.json'}' describes a {name or 'network without a class name'}; known are {supported}"
    )


def list_components(index: Mapping[str, Any]) -> dict[str, Component]:
    """The components of a pipeline's index that are used, by name, as library and class."""
    components: dict[str, Component] = {}
    for name, value in index.items():
        is_component = isinstance(value, list) and len(value) == 2
        if name.startswith("_") or name in UNUSED or not is_component or value == [None, None]:
            continue
        components[name] = (str(value[0]), str(value[1]))
    return components


def find_unknown_classes(components: Mapping[str, Component]) -> dict[str, str]:
    """The problem of each component whose class is not supported, by name."""
    has_t5_alone = "transformer" in components and components["transformer"][1] in pixart.CLASSES
    expected = {
        "unet": unet.CLASSES,
        "transformer": tuple(TRANSFORMERS),
        "vae": first_stage.CLASSES,
        "vqvae": first_stage.CLASSES,
        "text_encoder": T5_CLASSES if has_t5_alone else (*TEXT_CLASSES, *CHAT_CLASSES),
        "text_encoder_2": (*TEXT_CLASSES, *T5_CLASSES),
        "text_encoder_3": T5_CLASSES,
        "bert": ("LDMBertModel",),
        "tokenizer": None,
        "tokenizer_2": None,
        "tokenizer_3": None,
        "scheduler": None,
    }
    problems = {}
    for name, (_, kind) in components.items():
        classes = expected.get(name, ())
        if classes is not None and kind not in classes:
            supported = f"supported are {', '.join(classes)}" if classes else "no such component is supported"
            problems[name] = f"'{name}' is a {kind} ({supported})"
    return problems


def knows_classes(config: Mapping[str, Any]) -> bool:
    """Whether the model_index.json of a pipeline, or the config.json of one network, has no class but known ones."""
    if config.get("_class_name") in (*unet.CLASSES, *TRANSFORMERS, *first_stage.CLASSES):
        return True
    components = list_components(config)
    return bool(components) and not find_unknown_classes(components)


def _read_components(folder: Path, index: Mapping[str, Any], options: LoadOptions) -> dict[str, Component]:
    """The components of a pipeline by name, as library and class. Raises one ``ValueError`` for all problems."""
    components = list_components(index)
    unknown = find_unknown_classes(components)
    problems = []
    for name in components:
        if name in unknown:
            problems.append(unknown[name])
        elif not (folder / name).is_dir() and (name != "transformer" or options.transformer is None):
            problems.append(f"the folder '{name}' is missing")
    if "scheduler" in components and (folder / "scheduler").is_dir() and not (folder / "scheduler" / CONFIG).is_file():
        problems.append(f"'scheduler/{CONFIG}' is missing")
    if problems:
        name = index.get("_class_name", "a pipeline")
        raise ValueError(f"'{folder}' is {name} that cannot be loaded: {'; '.join(problems)}. Nothing was loaded")
    if not components:
        raise ValueError(f"'{folder / INDEX}' names no components: the folder is incomplete")
    return components

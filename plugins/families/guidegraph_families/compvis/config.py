"""Reads the config.yaml of CompVis' software, for settings that are not in tensors, and checks it against them.

The releases in CompVis' layout, with the settings that are not in their tensors.

Latent diffusion: `models/` and `configs/` of that project (Rombach et al. 2022; Blattmann et al. 2022 for rdm768).
Stable Diffusion 1 and 2, and SDXL: the configurations of their own projects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.config_values import (
    format_value,
    load_yaml,
    read_choice,
    read_flag,
    read_integer,
    read_number,
    read_numbers,
)
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.folders import CONFIG, is_compvis_config, load_beside
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.compvis.model_facts import BetaKind, BetaSchedule, Facts, Rescaler
from guidegraph_families.networks.autoencoder import FirstStageShape
from guidegraph_families.parts.first_stage import FLOW_STAGE
from guidegraph_families.parts.infer_unet import GROUPS, Structure

PREDICTIONS: dict[str, PredictionKind] = {"eps": "eps", "x0": "x0", "v": "v"}
SCALINGS: dict[str, PredictionKind] = {"EpsScaling": "eps", "VScaling": "v"}
"""SDXL's software: the prediction of the network, by the class that scales it."""

DISCRETISATION = "LegacyDDPMDiscretization"
"""SDXL's software: the discretisation with the β of latent diffusion."""

BETAS: dict[str, BetaKind] = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""Latent diffusion's names of schedules, and ours: its `linear` is linear in √β."""

MAX_STEPS = 100_000
MAX_STAGES = 16
"""The most timesteps of a schedule, and the most times that a map is shrunk."""

NETWORK_USED = (
    "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks", "channel_mult",
    "conv_resample", "num_heads", "num_head_channels", "num_heads_upsample", "use_scale_shift_norm", "resblock_updown",
    "use_new_attention_order", "use_spatial_transformer", "transformer_depth", "context_dim", "legacy",
    "use_linear_in_transformer", "adm_in_channels",
)  # fmt: skip
NETWORK_IGNORED = ("image_size", "dropout", "use_checkpoint", "use_fp16", "spatial_transformer_attn_type")
"""They change at most how the result is computed."""

NETWORK_FIXED: dict[str, tuple[Any, ...]] = {
    "dims": (2,),
    "n_embed": (None,),
    "num_classes": (None, "sequential"),
    "disable_self_attentions": (None,),
    "num_attention_blocks": (None,),
    "disable_middle_self_attn": (False,),
}


@dataclass(frozen=True)
class ModelConfig:
    """A config.yaml: its path, and the parameters of the model, its U-Net, its first stage and its conditioner."""

    path: Path
    model: Mapping[str, Any]
    network: Mapping[str, Any] | None
    first_stage: Mapping[str, Any] | None
    conditioner: Mapping[str, Any]


def find_config(checkpoint: Path, named_path: Path | None) -> ModelConfig | None:
    """Read the config.yaml of a checkpoint file: the named one, otherwise a CompVis one next to the file, or None.

    A config.yaml next to the file that is not plain YAML is ignored with a warning. Raises ``ValueError`` if the named
    one is missing, not CompVis', or unreadable.
    """
    if named_path is not None:
        return read_config(named_path)
    content = load_beside(checkpoint.parent)
    return _parse(checkpoint.parent / CONFIG, content) if is_compvis_config(content) else None


def read_config(path: Path) -> ModelConfig:
    """Read a config.yaml. Raises ``ValueError`` that names the file if it does not have CompVis' form."""
    return _parse(path, load_yaml(path))


def _parse(path: Path, content: Any) -> ModelConfig:
    if not is_compvis_config(content):
        raise ValueError(f"'{path}' is not a config.yaml of CompVis': expected model: {{target: …, params: …}}")
    params: Mapping[str, Any] = content["model"]["params"]
    network = _params(params, "unet_config") or _params(params, "network_config")
    first = _params(params, "first_stage_config")
    return ModelConfig(
        path,
        params,
        network,
        first if network is not None or "ddconfig" not in params else params,
        _params(params, "cond_stage_config") or {},
    )


def read_facts(config: ModelConfig) -> Facts:
    """The settings of a config.yaml that are not in tensors. Raises ``ValueError`` for unsupported values."""
    if config.network is None:
        return Facts(groups=GROUPS, scale=1.0)  # an autoencoder of that software has no scale of its own
    check_config(config.network, config.path, NETWORK_USED, NETWORK_FIXED, NETWORK_IGNORED)
    scale, schedule = read_scale(config), _schedule(config)
    sets_tokenizer = config.conditioner.get("use_tokenizer") is not None
    return Facts(
        **_heads(config.network, config.path),
        order="new" if read_flag(config.network, "use_new_attention_order", False, config.path) else "legacy",
        groups=GROUPS,
        scale=scale.scale,
        schedule=schedule.schedule,
        prediction=_prediction(config),
        rescaler=_rescaler(config),
        takes_text=read_flag(config.conditioner, "use_tokenizer", True, config.path) if sets_tokenizer else None,
        unsettled=scale.unsettled + schedule.unsettled,
    )


def read_scale(config: ModelConfig) -> Facts:
    """The scale of the latents: 1 by default; with `scale_by_std` only the checkpoint has it."""
    if config.network is None:
        return Facts(scale=1.0)
    if read_flag(config.model, "scale_by_std", False, config.path):
        return Facts(unsettled=("scale",))
    return Facts(scale=read_number(config.model, "scale_factor", 1.0, config.path))


def describe_mismatch(config: ModelConfig, measured: Structure, first: FirstStageShape | None, path: str) -> str | None:
    """Describe how a config.yaml differs from the network of the tensors; None if it does not.

    first: the shape of the first stage, if any. Raises ``ValueError`` for invalid values.
    """
    if config.network is None:
        return f"'{config.path}' describes a first stage alone, and '{path}' holds a U-Net: {REMEDY}"
    expected = _structure(config.network, config.path)
    differences = [
        f"{field.name} {getattr(expected, field.name)} for {getattr(measured, field.name)}"
        for field in fields(Structure)
        if getattr(expected, field.name) != getattr(measured, field.name)
    ]
    if differences:
        return f"'{config.path}' describes another U-Net than that of '{path}': {'; '.join(differences)}: {REMEDY}"
    return None if first is None else describe_first_stage_mismatch(config, first, path)


def describe_first_stage_mismatch(config: ModelConfig, shape: FirstStageShape, path: str) -> str | None:
    """Describe how the first stage in a config.yaml differs from the one in the tensors; None if it does not."""
    network = config.first_stage or {}
    params = network.get("ddconfig")
    if not isinstance(params, Mapping):
        return None
    channels = read_integer(params, "ch", None, config.path)
    multiples = read_numbers(params, "ch_mult", (1, 2, 4, 8), config.path, integers=True)
    described = {
        "widths": tuple(int(channels * multiple) for multiple in multiples),
        "z_channels": read_integer(params, "z_channels", None, config.path),
        "latent_channels": read_integer(network, "embed_dim", None, config.path),
        "codes": read_integer(network, "n_embed", 0, config.path, low=0, high=1 << 24),
    }
    differences = [
        f"{name} {value} for {getattr(shape, name)}"
        for name, value in described.items()
        if value != getattr(shape, name)
    ]
    if differences:
        return (
            f"'{config.path}' describes another first stage than that of '{path}': {'; '.join(differences)}: {REMEDY}"
        )
    return None


REMEDY = "name the right one with `config` of checkpoint.load, or put it beside the file"


def _params(params: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The parameters of a part `{target, params}`; None for other values, such as `__is_first_stage__`."""
    part = params.get(name)
    if not isinstance(part, Mapping):
        return None
    inner = part.get("params")
    return inner if isinstance(inner, Mapping) else {}


def _heads(network: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Number of heads: `num_head_channels` overrides `num_heads`; without tokens the way up may have its own."""
    width, count = (_count_or_unset(network, name, path) for name in ("num_head_channels", "num_heads"))
    if width is not None:
        return {"head_channels": width}
    if count is None:
        raise ValueError(f"'{path}' sets neither num_heads nor num_head_channels of the U-Net: {REMEDY}")
    up = _count_or_unset(network, "num_heads_upsample", path)
    counts = read_flag(network, "legacy", True, path)
    counts = counts and not read_flag(network, "use_spatial_transformer", False, path)
    return {"heads": count, "upsample_heads": up if counts else None}


def _count_or_unset(network: Mapping[str, Any], name: str, path: Path) -> int | None:
    """An integer from 1, or None for -1, which means unset in that software."""
    return None if network.get(name, -1) == -1 else read_integer(network, name, None, path)


def _schedule(config: ModelConfig) -> Facts:
    """The β of training. A kind that is not given by a start and an end is unsettled: the file must hold it."""
    if "denoiser_config" in config.model:
        return Facts(schedule=_discretisation(config))
    name = config.model.get("beta_schedule", "linear")
    if not isinstance(name, str):
        raise ValueError(f"'{config.path}': 'beta_schedule' is {format_value(name)}; expected the name of a schedule")
    rescaled = read_flag(config.model, "rescale_betas_zero_snr", False, config.path)
    if name not in BETAS or rescaled or config.model.get("given_betas") is not None:
        return Facts(unsettled=("schedule",))
    return Facts(schedule=_betas(config.model, "timesteps", (1e-4, 2e-2), BETAS[name], config.path))


def _betas(
    params: Mapping[str, Any], steps: str, ends: tuple[float, float], kind: BetaKind, path: Path
) -> BetaSchedule:
    """β from `linear_start` to `linear_end`, by default `ends`, over `steps` steps."""
    start, end = (
        read_number(params, f"linear_{side}", default, path, high=1)
        for side, default in zip(("start", "end"), ends, strict=True)
    )
    if not start <= end < 1:
        raise ValueError(f"'{path}': β go from {start:g} to {end:g}; expected linear_start ≤ linear_end < 1: {REMEDY}")
    return BetaSchedule(start, end, kind, read_integer(params, steps, 1000, path, high=MAX_STEPS))


def _prediction(config: ModelConfig) -> PredictionKind:
    """The prediction: `parameterization`, by default ε; in SDXL's software the scaling of its denoiser."""
    if "denoiser_config" in config.model:
        scaling = _class_name(_params(config.model, "denoiser_config") or {}, "scaling_config")
        if scaling not in SCALINGS:
            raise _class_error(config.path, "scaling_config", scaling, SCALINGS)
        return SCALINGS[scaling]
    return PREDICTIONS[read_choice(config.model, "parameterization", "eps", config.path, tuple(PREDICTIONS))]


def _discretisation(config: ModelConfig) -> BetaSchedule:
    """The β of SDXL's software: its DDPM discretisation, which has latent diffusion's numbers by default."""
    denoiser = _params(config.model, "denoiser_config") or {}
    name = _class_name(denoiser, "discretization_config")
    if name != DISCRETISATION:
        raise _class_error(config.path, "discretization_config", name, (DISCRETISATION,))
    numbers = _params(denoiser, "discretization_config") or {}
    return _betas(numbers, "num_timesteps", (0.00085, 0.012), "scaled_linear", config.path)


def _class_error(path: Path, field: str, name: str, supported: Collection[str]) -> ValueError:
    return ValueError(
        f"'{path}': '{field}' of its denoiser_config is {format_value(name) if name else 'missing'}; supported are "
        f"{' and '.join(supported)}. Nothing was loaded"
    )


def _rescaler(config: ModelConfig) -> Rescaler | None:
    params = config.conditioner
    if _class_name(config.model, "cond_stage_config") != "SpatialRescaler":
        return None
    return Rescaler(
        read_integer(params, "n_stages", 1, config.path, low=0, high=MAX_STAGES),
        read_number(params, "multiplier", 0.5, config.path, high=1),
        read_choice(params, "method", "bilinear", config.path, ("nearest", "bilinear", "bicubic", "area")),
    )


def _class_name(params: Mapping[str, Any], name: str) -> str:
    """The class name of a part `{target, params}`, without its module; empty for other values."""
    part = params.get(name)
    target = part.get("target", "") if isinstance(part, Mapping) else ""
    return target.rpartition(".")[2] if isinstance(target, str) else ""


def _structure(network: Mapping[str, Any], path: Path) -> Structure:
    """The structure that the tensors of the described U-Net would have."""
    channels = read_integer(network, "model_channels", None, path)
    multiples = read_numbers(network, "channel_mult", (1, 2, 4, 8), path)
    tokens = read_flag(network, "use_spatial_transformer", False, path)
    depths = _depths(network, len(multiples), path) if tokens else (1,) * len(multiples)
    attended = read_numbers(network, "attention_resolutions", None, path, least=0)
    pooling = read_flag(network, "resblock_updown", False, path)
    return Structure(
        inputs=read_integer(network, "in_channels", None, path),
        outputs=read_integer(network, "out_channels", None, path),
        channels=channels,
        widths=tuple(int(channels * multiple) for multiple in multiples),
        blocks=read_integer(network, "num_res_blocks", None, path),
        depths=tuple(depth if 2**i in attended else 0 for i, depth in enumerate(depths)),
        middle_depth=depths[-1],
        context_dim=read_integer(network, "context_dim", None, path) if tokens else None,
        linear_projections=read_flag(network, "use_linear_in_transformer", False, path),
        scale_shift=read_flag(network, "use_scale_shift_norm", False, path),
        resblock_updown=pooling,
        classes=None,
        adm_channels=None
        if network.get("adm_in_channels") is None
        else read_integer(network, "adm_in_channels", None, path),
        resample_convolution=pooling or read_flag(network, "conv_resample", True, path),
    )


def _depths(network: Mapping[str, Any], levels: int, path: Path) -> tuple[int, ...]:
    """The transformer blocks of each resolution: `transformer_depth` is one number for all, or a list."""
    depth = network.get("transformer_depth", 1)
    if not isinstance(depth, list | tuple):
        return (read_integer(network, "transformer_depth", 1, path),) * levels
    if len(depth) != levels:
        raise ValueError(
            f"'{path}': 'transformer_depth' is {format_value(depth)}; expected a whole number, or one for each of "
            f"{levels} resolutions: {REMEDY}"
        )
    return tuple(read_integer({"transformer_depth": item}, "transformer_depth", None, path, low=0) for item in depth)


@dataclass(frozen=True)
class FirstStageRelease:
    """A released first stage by its name and shape; scale: None if files of this shape differ in it."""

    name: str
    shape: FirstStageShape
    scale: float | None = 1.0
    note: str = ""


@dataclass(frozen=True)
class Release:
    """A released diffusion model: its names, the structure of its tensors, and facts that are not in them.

    inputs: channels of the first convolution, for models that differ only in these. first_stage: name of the
    autoencoder of its latents. note: advice for facts that are missing because files of this shape differ in them.
    """

    names: tuple[str, ...]
    structure: Structure
    first_stage: str
    facts: Facts
    inputs: tuple[int, ...]
    note: str = ""

    def matches(self, measured: Structure, first: FirstStageShape | None) -> bool:
        """Whether a structure and its first stage, if any, belong to this model."""
        alike = measured.inputs in self.inputs and replace(measured, inputs=self.structure.inputs) == self.structure
        return alike and (first is None or _same_latents(first, FIRST_STAGES[self.first_stage].shape))


def find_release(measured: Structure, first: FirstStageShape | None) -> Release | None:
    """The released model of a structure, or None."""
    return next((release for release in RELEASES if release.matches(measured, first)), None)


def find_first_stage(shape: FirstStageShape) -> FirstStageRelease | None:
    """The released first stage of a shape, or None."""
    return next((release for release in FIRST_STAGES.values() if release.shape == shape), None)


def _same_latents(first: FirstStageShape, other: FirstStageShape) -> bool:
    return replace(first, middle=other.middle) == other  # inpainting_big's has no attention in the middle


def _first_stage(
    multiples: tuple[int, ...], channels: int, codes: int = 0, attention: tuple[int, ...] = ()
) -> FirstStageShape:
    """128 channels times a multiple at each resolution; attention at some levels and in the middle."""
    return FirstStageShape(
        widths=tuple(128 * multiple for multiple in multiples),
        encoder_attention=attention,
        decoder_attention=attention,
        z_channels=channels,
        latent_channels=channels,
        codes=codes,
        groups=GROUPS,
    )


VQ_F4 = _first_stage((1, 2, 4), 3, 8192)
KL_F8_NOTE = (
    "first stages of this shape are scaled by 0.18215 in Stable Diffusion 1 and 2, by 0.13025 in SDXL, and not at all "
    "(1) where latent diffusion released kl-f8 alone"
)
FLOW_F8_NOTE = (
    "first stages of this shape have a scale of 1.5305 and a shift of 0.0609 in Stable Diffusion 3, of 0.3611 and "
    "0.1159 in Flux and Z-Image: set shift too"
)
FIRST_STAGES = {
    release.name: release
    for release in (
        FirstStageRelease("kl-f4", _first_stage((1, 2, 4), 3)),
        FirstStageRelease("kl-f8", _first_stage((1, 2, 4, 4), 4), None, KL_F8_NOTE),
        FirstStageRelease("kl-f16", _first_stage((1, 1, 2, 2, 4), 16, attention=(4,))),
        FirstStageRelease("kl-f32", _first_stage((1, 1, 2, 2, 4, 4), 64, attention=(4, 5))),
        FirstStageRelease("flow-f8", FLOW_STAGE, None, FLOW_F8_NOTE),
        FirstStageRelease("vq-f4", VQ_F4),
        FirstStageRelease("vq-f4-noattn", replace(VQ_F4, middle=False)),
        FirstStageRelease("vq-f8", _first_stage((1, 2, 2, 4), 4, 16384, (3,))),
        FirstStageRelease("vq-f8-n256", _first_stage((1, 2, 2, 4), 4, 256, (3,))),
        FirstStageRelease("vq-f16", _first_stage((1, 1, 2, 2, 4), 8, 16384, (4,))),
    )
}
"""By name. The autoencoders have scale 1: the scale belongs to the diffusion model on their latents."""


def _unet(channels: int, multiples: tuple[int, ...], latent: int, depths: tuple[int, ...], **more: object) -> Structure:
    structure = Structure(
        inputs=latent,
        outputs=latent,
        channels=channels,
        widths=tuple(channels * multiple for multiple in multiples),
        blocks=2,
        depths=depths,
        middle_depth=max(1, *depths),
        context_dim=None,
        linear_projections=False,
        scale_shift=False,
        resblock_updown=False,
        classes=None,
        adm_channels=None,
    )
    return replace(structure, **more)  # type: ignore[arg-type]


def _latent_diffusion(
    names: str, structure: Structure, first_stage: str, facts: Facts, beta_end: float, inputs: int | None = None
) -> Release:
    """A model of the paper: ε, β from 0.0015, heads before q, k and v if attention is among pixels only."""
    complete = replace(facts, order="legacy", groups=GROUPS, prediction="eps", schedule=BetaSchedule(0.0015, beta_end))
    return Release(tuple(names.split()), structure, first_stage, complete, (inputs or structure.inputs,))


def _stable(names: str, structure: Structure, inputs: tuple[int, ...], facts: Facts, note: str = "") -> Release:
    complete = replace(facts, order="legacy", groups=GROUPS, schedule=BetaSchedule(0.00085, 0.012))
    return Release(tuple(names.split()), structure, "kl-f8", complete, inputs, note)


WIDE = Facts(head_channels=32, scale=1.0)
EIGHT = Facts(heads=8, scale=1.0)
STABLE = Facts(heads=8, scale=0.18215, prediction="eps")
STABLE_2 = Facts(head_channels=64, scale=0.18215)
STABLE_2_NOTE = (
    "this is the shape of Stable Diffusion 2, whose files do not tell what the network predicts: set `prediction` of "
    "checkpoint.load to v (the models of 768 pixels) or to eps (the base models of 512 pixels)"
)
MAPS = replace(EIGHT, rescaler=Rescaler(2))
OUTER = (0, 1, 1, 1)
INNER = (1, 1, 1, 0)
TEXT_UNET = _unet(320, (1, 2, 4, 4), 4, INNER)
SD_2 = replace(TEXT_UNET, context_dim=1024, linear_projections=True)
SDXL = replace(_unet(320, (1, 2, 4), 4, (0, 2, 10)), context_dim=2048, linear_projections=True, adm_channels=2816)

SDXL_SIZE_WIDTH = 256
"""Width of the embedding of each of the six sizes at the end of SDXL's vector (Podell et al. 2023, section 2.2)."""


RELEASES = (
    _latent_diffusion("celeba256 ffhq256 lsun_beds256", _unet(224, (1, 2, 3, 4), 3, OUTER), "vq-f4", WIDE, 0.0195),
    _latent_diffusion(
        "lsun_churches256",
        _unet(192, (1, 2, 2, 4, 4), 4, (1, 1, 1, 1, 0), scale_shift=True, resblock_updown=True),
        "kl-f8",
        Facts(heads=8),  # scaled by the deviation of its latents, which the file has
        0.0155,
    ),
    _latent_diffusion(
        "cin256",
        _unet(256, (1, 2, 4), 4, (1, 1, 1), context_dim=512),
        "vq-f8",
        WIDE,
        0.0195,
    ),
    _latent_diffusion(
        "cin256-v2",
        _unet(192, (1, 2, 3, 5), 3, OUTER, context_dim=512),
        "vq-f4",
        Facts(heads=1, scale=1.0, null_label=1000),
        0.0195,
    ),
    _latent_diffusion("text2img256", _unet(192, (1, 2, 3, 5), 3, OUTER, context_dim=640), "vq-f4", WIDE, 0.0195),
    _latent_diffusion(
        "layout2img-openimages256",
        _unet(128, (1, 2, 3, 4), 3, (0, 3, 3, 3), context_dim=512),
        "vq-f4",
        replace(WIDE, takes_text=False),
        0.0205,
    ),
    _latent_diffusion(
        "inpainting_big", _unet(256, (1, 2, 3, 4), 3, OUTER, resblock_updown=True), "vq-f4", EIGHT, 0.0205, 7
    ),
    _latent_diffusion(
        "semantic_synthesis256 semantic_synthesis512", _unet(128, (1, 4, 8), 3, (0, 0, 0)), "vq-f4", MAPS, 0.0205, 6
    ),
    _latent_diffusion("bsr_sr", _unet(160, (1, 2, 2, 4), 3, (0, 0, 0, 1)), "vq-f4", WIDE, 0.0155, 6),
    _latent_diffusion(
        "rdm768",
        _unet(448, (1, 2, 3, 4), 16, INNER, context_dim=768),
        "kl-f16",
        Facts(head_channels=32, scale=0.22765929),
        0.015,
    ),
    _stable("txt2img-1p4B", replace(TEXT_UNET, context_dim=1280), (4,), STABLE),
    _stable("stable-diffusion-1", replace(TEXT_UNET, context_dim=768), (4, 8, 9), STABLE),
    _stable("stable-diffusion-2", SD_2, (4,), STABLE_2, STABLE_2_NOTE),
    _stable("stable-diffusion-2-inpainting", SD_2, (9,), replace(STABLE_2, prediction="eps")),
    _stable("sdxl", SDXL, (4, 9), Facts(head_channels=64, scale=0.13025, prediction="eps")),
)

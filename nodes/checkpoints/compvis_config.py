"""The config.yaml that CompVis' software builds a model from: what no tensor tells, checked against those that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.compvis_facts import BetaSchedule, Facts, Rescaler
from guidegraph.nodes.checkpoints.diffusers_config import check_config
from guidegraph.nodes.checkpoints.structure import GROUPS, Structure
from guidegraph.nodes.models.released_autoencoder import FirstStageShape
from guidegraph.nodes.types import PredictionKind

CONFIG = "config.yaml"
SUFFIXES = (".ckpt", ".safetensors", ".pt")
MAX_BYTES = 1 << 20
PREDICTIONS: dict[str, PredictionKind] = {"eps": "eps", "x0": "x0", "v": "v"}
SCALINGS: dict[str, PredictionKind] = {"EpsScaling": "eps", "VScaling": "v"}
"""SDXL's software: what the network gives, by the class that scales it."""

BETAS = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""Latent diffusion's names of schedules, and ours: its `linear` is linear in √β."""

NETWORK_USED = (
    "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks", "channel_mult",
    "conv_resample", "num_heads", "num_head_channels", "num_heads_upsample", "use_scale_shift_norm", "resblock_updown",
    "use_new_attention_order", "use_spatial_transformer", "transformer_depth", "context_dim", "legacy",
    "use_linear_in_transformer", "adm_in_channels",
)  # fmt: skip
NETWORK_IGNORED = ("image_size", "dropout", "use_checkpoint", "use_fp16", "spatial_transformer_attn_type")
"""Without effect on what is computed, or only on how."""

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
    """One config.yaml: where it is, the parameters of the model, of its U-Net, its first stage and its conditioner."""

    path: Path
    model: Mapping[str, Any]
    network: Mapping[str, Any] | None
    first_stage: Mapping[str, Any] | None
    conditioner: Mapping[str, Any]


def is_compvis_folder(folder: Path) -> bool:
    """Whether a folder holds a config.yaml of CompVis' beside checkpoint files, as the models were released."""
    config = folder / CONFIG
    return config.is_file() and is_compvis_config(load_yaml(config)) and any(_checkpoints(folder))


def file_in(folder: Path) -> Path:
    """The only checkpoint file of such a folder. Raises ``ValueError`` for several."""
    files = _checkpoints(folder)
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"'{folder}' holds {len(files)} checkpoint files, {names}: name the file")
    return files[0]


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def find_config(checkpoint: Path, named: Path | None) -> ModelConfig | None:
    """The config.yaml of a checkpoint file: the one that is named, else one of CompVis' beside the file, or None.

    Raises ``ValueError`` for a named one that is not there, and for one that is not CompVis' or cannot be read.
    """
    if named is not None:
        return read_config(named)
    beside = checkpoint.parent / CONFIG
    if not beside.is_file() or not is_compvis_config(load_yaml(beside)):
        return None
    return read_config(beside)


def is_compvis_config(content: object) -> bool:
    """Whether a document has the form `model: {target, params}`."""
    model = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(model, Mapping) and isinstance(model.get("params"), Mapping) and "target" in model


def load_yaml(path: Path) -> object:
    """What a YAML file of at most 1 MiB holds, by a safe loader. Raises ``ValueError`` that names it."""
    import yaml

    if not path.is_file():
        raise ValueError(f"there is no file '{path}': name the config.yaml of the model")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"'{path}' has {path.stat().st_size} bytes, and a model's config.yaml at most {MAX_BYTES}")
    try:
        return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not YAML ({str(error).splitlines()[0]}): repair or remove it") from None


def read_config(path: Path) -> ModelConfig:
    """A config.yaml. Raises ``ValueError`` that names the file for one that is not of CompVis' form."""
    content = load_yaml(path)
    if not is_compvis_config(content):
        raise ValueError(f"'{path}' is no config.yaml of CompVis': expected model: {{target: …, params: …}}")
    assert isinstance(content, Mapping)
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


def facts_of(config: ModelConfig) -> Facts:
    """What a config.yaml says that no tensor does. Raises ``ValueError`` for what is not supported."""
    if config.network is None:
        return Facts(groups=GROUPS, scale=1.0)  # an autoencoder of that software has no scale of its own
    check_config(config.network, config.path, NETWORK_USED, NETWORK_FIXED, NETWORK_IGNORED)
    heads = _heads(config.network, config.path)
    by_deviation = bool(config.model.get("scale_by_std", False))
    return Facts(
        **heads,
        order="new" if config.network.get("use_new_attention_order", False) else "legacy",
        groups=GROUPS,
        scale=None if by_deviation else _number(config.model, "scale_factor", 1.0, config.path),
        schedule=_schedule(config),
        prediction=_prediction(config),
        rescaler=_rescaler(config),
        takes_text=None if "use_tokenizer" not in config.conditioner else bool(config.conditioner["use_tokenizer"]),
    )


def check_structure(config: ModelConfig, measured: Structure, where: str) -> None:
    """Whether the network that a config.yaml describes is the one that the tensors are of. Raises ``ValueError``."""
    if config.network is None:
        raise ValueError(f"'{config.path}' describes a first stage alone, and '{where}' holds a U-Net: {REMEDY}")
    expected = _structure(config.network, config.path)
    odd = [
        f"{field.name} {getattr(expected, field.name)} for {getattr(measured, field.name)}"
        for field in fields(Structure)
        if getattr(expected, field.name) != getattr(measured, field.name)
    ]
    if odd:
        raise ValueError(f"'{config.path}' describes another U-Net than that of '{where}': {'; '.join(odd)}: {REMEDY}")


def check_first_stage(config: ModelConfig, shape: FirstStageShape, where: str) -> None:
    """The same for the first stage, where the config.yaml describes it. Raises ``ValueError``."""
    network = config.first_stage or {}
    params = network.get("ddconfig")
    if not isinstance(params, Mapping):
        return
    described = {
        "widths": tuple(int(params["ch"]) * int(multiple) for multiple in params.get("ch_mult", (1, 2, 4, 8))),
        "z_channels": params.get("z_channels"),
        "latent_channels": network.get("embed_dim"),
        "codes": network.get("n_embed", 0),
    }
    odd = [
        f"{name} {value} for {getattr(shape, name)}"
        for name, value in described.items()
        if value != getattr(shape, name)
    ]
    if odd:
        raise ValueError(
            f"'{config.path}' describes another first stage than that of '{where}': {'; '.join(odd)}: {REMEDY}"
        )


REMEDY = "name the right one with `config` of checkpoint.load, or put it beside the file"


def _params(params: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The parameters of a part `{target, params}`; None for one that is no such part, `__is_first_stage__` say."""
    part = params.get(name)
    if not isinstance(part, Mapping):
        return None
    inner = part.get("params")
    return inner if isinstance(inner, Mapping) else {}


def _heads(network: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """How many heads: `num_head_channels` goes before `num_heads`; among pixels alone the way up may have its own."""
    width, count = (_whole(network, name, -1, where) for name in ("num_head_channels", "num_heads"))
    if width != -1:
        return {"head_channels": width}
    if count == -1:
        raise ValueError(f"'{where}' sets neither num_heads nor num_head_channels of the U-Net: {REMEDY}")
    up = _whole(network, "num_heads_upsample", -1, where)
    counts = up != -1 and network.get("legacy", True) and not network.get("use_spatial_transformer", False)
    return {"heads": count, "upsample_heads": up if counts else None}


def _schedule(config: ModelConfig) -> BetaSchedule | None:
    """The β of training; None for a kind that has other numbers than a start and an end, which the file must hold."""
    if "denoiser_config" in config.model:
        return _discretisation(config)
    name = config.model.get("beta_schedule", "linear")
    if name not in BETAS:
        return None
    start, end = (
        _number(config.model, f"linear_{side}", default, config.path)
        for side, default in (("start", 1e-4), ("end", 2e-2))
    )
    kind = "scaled_linear" if BETAS[name] == "scaled_linear" else "linear"
    return BetaSchedule(start, end, kind, _whole(config.model, "timesteps", 1000, config.path))  # type: ignore[arg-type]


def _prediction(config: ModelConfig) -> PredictionKind | None:
    """`parameterization`, ε where it is left out; SDXL's software names it by the scaling of its denoiser."""
    if "denoiser_config" in config.model:
        scaling = _params(config.model, "denoiser_config") or {}
        return SCALINGS.get(_class_name(scaling, "scaling_config"))
    name = config.model.get("parameterization", "eps")
    if name not in PREDICTIONS:
        raise ValueError(f"'{config.path}': 'parameterization' is {name!r}; supported are {', '.join(PREDICTIONS)}")
    return PREDICTIONS[name]


def _discretisation(config: ModelConfig) -> BetaSchedule | None:
    """The β of SDXL's software, whose discretisation of DDPM has latent diffusion's numbers unless it says others."""
    denoiser = _params(config.model, "denoiser_config") or {}
    if _class_name(denoiser, "discretization_config") != "LegacyDDPMDiscretization":
        return None
    numbers = _params(denoiser, "discretization_config") or {}
    start = _number(numbers, "linear_start", 0.00085, config.path)
    end = _number(numbers, "linear_end", 0.012, config.path)
    return BetaSchedule(start, end, steps=_whole(numbers, "num_timesteps", 1000, config.path))


def _rescaler(config: ModelConfig) -> Rescaler | None:
    params = config.conditioner
    if _class_name(config.model, "cond_stage_config") != "SpatialRescaler":
        return None
    method = str(params.get("method", "bilinear"))
    if method not in ("nearest", "bilinear", "bicubic", "area"):
        raise ValueError(
            f"'{config.path}': 'method' of the conditioner is {method!r}; supported are nearest, bilinear, bicubic and "
            "area"
        )
    return Rescaler(_whole(params, "n_stages", 1, config.path), _number(params, "multiplier", 0.5, config.path), method)


def _class_name(params: Mapping[str, Any], name: str) -> str:
    """The class that a part `{target, params}` names, without its module; empty for what is no such part."""
    part = params.get(name)
    return str(part.get("target", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def _structure(network: Mapping[str, Any], where: Path) -> Structure:
    """What the tensors of the described U-Net would tell."""
    channels = _whole(network, "model_channels", None, where)
    multiples = _list(network, "channel_mult", (1, 2, 4, 8), where)
    tokens = bool(network.get("use_spatial_transformer", False))
    depth = network.get("transformer_depth", 1) if tokens else 1
    each = list(depth) if isinstance(depth, Sequence) else [depth] * len(multiples)
    attended = [int(rate) for rate in _list(network, "attention_resolutions", None, where)]
    pooling = bool(network.get("resblock_updown", False))
    return Structure(
        inputs=_whole(network, "in_channels", None, where),
        outputs=_whole(network, "out_channels", None, where),
        channels=channels,
        widths=tuple(int(channels * multiple) for multiple in multiples),
        blocks=_whole(network, "num_res_blocks", None, where),
        depths=tuple(each[i] if 2**i in attended else 0 for i in range(len(multiples))),
        middle_depth=each[-1],
        context_dim=_whole(network, "context_dim", None, where) if tokens else None,
        linear_projections=bool(network.get("use_linear_in_transformer", False)),
        scale_shift=bool(network.get("use_scale_shift_norm", False)),
        resblock_updown=pooling,
        classes=None,
        adm_channels=network.get("adm_in_channels"),
        resample_convolution=pooling or bool(network.get("conv_resample", True)),
    )


def _list(params: Mapping[str, Any], name: str, default: Sequence[Any] | None, where: Path) -> Sequence[Any]:
    value = params.get(name, default)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, int | float) for v in value):
        raise ValueError(f"'{where}': '{name}' is {value!r}; expected a list of numbers")
    return value


def _whole(params: Mapping[str, Any], name: str, default: int | None, where: Path) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"'{where}': '{name}' is {value!r}; expected a whole number")
    return value


def _number(params: Mapping[str, Any], name: str, default: float, where: Path) -> float:
    """A positive number; YAML 1.1 reads `1e-4` as text, and so is it read here."""
    value = params.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"'{where}': '{name}' is {value!r}; expected a number above 0")
    return number

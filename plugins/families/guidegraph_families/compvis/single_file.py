"""Loads CompVis single files: latent diffusion, Stable Diffusion 1 and 2, SDXL, or a first stage only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidegraph.graph.device_context import current_device
from guidegraph.nodes.checkpoints.config_values import strip_prefix
from guidegraph.nodes.checkpoints.filling import check_axes
from guidegraph.nodes.checkpoints.folders import FIRST, UNET
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import PredictionKind, Schedule
from guidegraph_families.compvis import config
from guidegraph_families.compvis.config import (
    FLOW_F8_NOTE,
    ModelConfig,
    describe_first_stage_mismatch,
    describe_mismatch,
    find_config,
    find_first_stage,
    find_release,
    read_facts,
    read_scale,
)
from guidegraph_families.compvis.model_facts import (
    BetaSchedule,
    Facts,
    facts_from_options,
    list_unknown_settings,
    merge_facts,
)
from guidegraph_families.compvis.text import (
    check_same_first_stage,
    identify_conditioner,
    load_conditioner,
    load_sdxl_text,
    measure_sizes,
)
from guidegraph_families.guided_diffusion import build_schedule
from guidegraph_families.networks.autoencoder import FirstStageShape
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.parts.first_stage import FLOW_STAGE, build_first_stage, infer_first_stage_shape
from guidegraph_families.parts.infer_unet import GROUPS, Structure, build_denoiser, infer_structure, infer_unet_shape

EMA, COND, SDXL = "model_ema.", "cond_stage_model.", "conditioner.embedders."
SCHEDULE_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "denoiser.sigmas",
)  # fmt: skip
MARKS = ("scale_factor", "cond_ids", "model_ema.decay", "model_ema.num_updates", "v_pred", "ztsnr", "global_step")
"""Metadata tensors: the latent's scale, the EMA's state, and the prediction of fine-tuned SDXL models."""

CUMULATED = 1e-5
"""Largest relative error of ᾱ that software computed from β in float32, by 1000 products."""

LOSS = "loss."
"""Prefix below the first stage of the discriminator and the perceptual network of its training."""


def load_compvis(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a CompVis single file, frozen, on the run's device and in its dtype.

    The parts are `denoiser`, `schedule`, `autoencoder`, and `text`, `label` or `semantic`, if present. Settings that
    cannot be inferred from tensors come from the options, the config.yaml next to the file, or the released model of
    this shape. Raises one ``ValueError`` that names the file for keys that are missing, left over or of another shape,
    and for settings that none of these gives.
    """
    options.refuse_t5(str(path))
    config = find_config(path, options.config)
    if not any(name.startswith((UNET, FIRST)) for name in tensors):
        return {"autoencoder": _load_first_stage(dict(tensors), tensors, path, options, config)}
    by_prefix = {prefix: strip_prefix(tensors, prefix) for prefix in (UNET, EMA, FIRST, COND, SDXL)}
    unknown = [
        name
        for name in tensors
        if not name.startswith(tuple(by_prefix)) and name not in SCHEDULE_BUFFERS and name not in MARKS
    ]
    if unknown:
        raise ValueError(
            f"'{path}' holds {len(unknown)} tensors that no known part has: {', '.join(sorted(unknown)[:4])}. It is "
            "of another architecture: nothing was loaded"
        )
    if not by_prefix[UNET]:
        return {"autoencoder": _load_first_stage(by_prefix[FIRST], tensors, path, options, config)}
    return _load_diffusion_model(by_prefix, tensors, path, options, config)


def _load_diffusion_model(
    by_prefix: Mapping[str, dict[str, Tensor]],
    tensors: Mapping[str, Tensor],
    path: Path,
    options: LoadOptions,
    config: ModelConfig | None,
) -> dict[str, Any]:
    """Load the parts of a file with a U-Net; `by_prefix` has its tensors."""
    if options.shift is not None:
        raise ValueError(f"'{path}' holds a U-Net whose latents have no shift: leave shift out")
    first = _drop_loss(by_prefix[FIRST])
    first_shape = infer_first_stage_shape(first, str(path)) if first else None
    weights = _select_averages(by_prefix[UNET], by_prefix[EMA], path) if options.ema else by_prefix[UNET]
    measured = infer_structure(weights, str(path))
    conditioner = identify_conditioner(by_prefix[COND])
    facts = resolve_facts(measured, first_shape, tensors, path, options, config, maps=conditioner == "rescaler")
    assert facts.prediction is not None
    shape = infer_unet_shape(
        weights,
        str(path),
        samples=measured.outputs if first_shape is None else first_shape.latent_channels,
        heads=facts.layout,
        kind=facts.prediction,
        groups=facts.norm_groups,
    )
    if shape.classes is not None:
        raise ValueError(f"'{path}': a U-Net with {shape.classes} label embeddings in this layout is not supported")
    parts: dict[str, Any] = {}
    if first_shape is not None:
        assert facts.scale is not None
        parts["autoencoder"] = build_first_stage(first, str(path), facts.scale, facts.norm_groups)
    if conditioner == "first_stage":
        check_same_first_stage(_drop_loss(by_prefix[COND]), first, str(path))
    elif by_prefix[SDXL]:
        parts["text"] = load_sdxl_text(by_prefix[SDXL], shape.adm_channels, path, options.tokenizer)
    else:
        parts.update(load_conditioner(by_prefix[COND], path, options.tokenizer, facts))
    if (size_width := _measure_sizes(by_prefix[SDXL], shape, path)) is not None:
        pixels = 8 if first_shape is None else parts["autoencoder"].config.factor
        shape = replace(shape, size_width=size_width, pixels=pixels)
    parts |= build_denoiser(shape, weights, str(path))
    parts["schedule"] = _build_schedule(tensors, path, options, facts.schedule, facts.prediction)
    return parts


def _measure_sizes(conditioners: Mapping[str, Tensor], shape: UNetShape, path: Path) -> int | None:
    """The width of each size in SDXL's vector, by its text encoders or the released shape; None for other networks."""
    if conditioners:
        return measure_sizes(conditioners, shape.adm_channels, path)
    released = (shape.adm_channels, shape.context_dim) == (config.SDXL.adm_channels, config.SDXL.context_dim)
    return config.SDXL_SIZE_WIDTH if released else None


def _load_first_stage(
    own: dict[str, Tensor],
    tensors: Mapping[str, Tensor],
    path: Path,
    options: LoadOptions,
    config: ModelConfig | None,
) -> Any:
    """Load a first stage without its diffusion model; own: its tensors; tensors: all tensors of the file."""
    _refuse_unused(path, options)
    weights = {name: tensor for name, tensor in _drop_loss(own).items() if name not in MARKS}
    shape = infer_first_stage_shape(weights, str(path))
    scale = resolve_first_stage_scale(shape, tensors, path, options, config)
    shift = resolve_first_stage_shift(shape, path, options)
    return build_first_stage(weights, str(path), scale, options.groups or GROUPS, shift)


def _refuse_unused(path: Path, options: LoadOptions) -> None:
    """Raise ``ValueError`` for settings that need a U-Net."""
    needs_unet = {
        "heads": options.heads is not None,
        "head_channels": options.head_channels is not None,
        "upsample_heads": options.upsample_heads is not None,
        "attention": options.attention != "auto",
        "prediction": options.prediction != "auto",
        "noise_schedule": options.noise_schedule != "auto",
    }
    if unused := [name for name, is_set in needs_unet.items() if is_set]:
        raise ValueError(f"'{path}' is a first stage alone, without a U-Net: leave {', '.join(unused)} out")


def _drop_loss(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(LOSS)}


def _select_averages(weights: dict[str, Tensor], ema: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the moving averages of the weights if the file has them, otherwise the weights.

    The file stores them under the weights' names without dots.
    """
    state = {name.removeprefix(EMA) for name in MARKS}
    averages = {name: tensor for name, tensor in ema.items() if name not in state}
    if not averages:
        return weights
    names = {f"diffusion_model{name.replace('.', '')}": name for name in weights}
    trained = {short: tensor for short, tensor in averages.items() if short in names}
    if len(trained) < len(names) or len(averages) > len(trained):
        differing = sorted((set(names) | set(averages)) - set(trained))
        raise ValueError(
            f"'{path}': the moving averages do not fit the weights ({len(differing)} names: "
            f"{', '.join(differing[:4])}): set ema to false for the weights themselves"
        )
    return {names[short]: tensor for short, tensor in trained.items()}


def _build_schedule(
    tensors: Mapping[str, Tensor], path: Path, options: LoadOptions, nominal: BetaSchedule | None, kind: PredictionKind
) -> Schedule:
    """The schedule of the file's ᾱ, otherwise the nominal one. Raises ``ValueError``.

    The mark of zero terminal SNR rescales a schedule that leaves signal at its end. nominal: from the config.yaml or
    the released model. kind: of the prediction.
    """
    if options.noise_schedule != "auto":
        return build_schedule(options.noise_schedule)
    if "alphas_cumprod" in tensors:
        schedule = _read_stored_schedule(tensors, path, nominal, kind)
    else:
        assert nominal is not None
        schedule = nominal.build()
    has_mark = "ztsnr" in tensors
    return schedules.zero_terminal_snr(schedule) if has_mark and schedule.alphas_bar[-1] > 0 else schedule


def _read_stored_schedule(
    tensors: Mapping[str, Tensor], path: Path, nominal: BetaSchedule | None, kind: PredictionKind
) -> Schedule:
    """The schedule of the file's ᾱ, or the nominal one or the one of the file's β if the ᾱ are the same numbers,
    rounded.

    A model that does not predict ε was trained on a last timestep without signal. Raises ``ValueError``.
    """
    stored = check_axes(tensors["alphas_cumprod"], str(path), "alphas_cumprod", 1).cpu()
    is_decreasing = stored.is_floating_point() and bool((stored.diff() <= 0).all() and 1 >= stored[0] > stored[-1] >= 0)
    if not is_decreasing:  # in half precision, neighbours may be equal
        raise ValueError(f"'{path}' holds no schedule: its alphas_cumprod do not fall from 1: set noise_schedule")
    precision = 2 * torch.finfo(stored.dtype).eps
    if nominal is not None and _is_rounded(stored, nominal.build().alphas_bar.cpu(), precision):
        return nominal.build()
    betas = tensors.get("betas")
    if betas is not None and betas.shape == stored.shape and betas.dtype in (torch.float32, torch.float64):
        exact = schedules.from_betas(betas.double().cpu().numpy())
        if _is_rounded(stored, exact.alphas_bar.cpu(), max(precision, CUMULATED)):
            return exact
    trained_to = len(stored) - 1.0 if stored[-1] == 0 and kind != "eps" else None
    return Schedule(torch.from_numpy(np.asarray(stored.double())).to(current_device()), trained_to=trained_to)


def _is_rounded(stored: Tensor, exact: Tensor, tolerance: float) -> bool:
    """Whether stored numbers are exact ones, rounded to their dtype, and both end in zero or neither does."""
    rounded = exact.to(stored.dtype)
    if stored.shape != rounded.shape or bool(stored[-1] == 0) != bool(rounded[-1] == 0):
        return False
    smallest = torch.finfo(stored.dtype).tiny
    return torch.allclose(stored.double(), rounded.double(), rtol=tolerance, atol=tolerance * smallest)


HINT = "set them on checkpoint.load as it was trained, or put the config.yaml of its training beside the file"


def read_file_facts(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> Facts:
    """Facts in the file: the scale of its latents, unless a setting gives it, and whether it predicts v.

    Raises ``ValueError`` that names the file for an invalid scale.
    """
    stored = tensors.get("scale_factor") if options.scale is None else None
    scale = None
    if stored is not None:
        scale = float(stored) if stored.numel() == 1 and not stored.is_complex() else math.nan
        if not 0 < scale < math.inf:
            value = stored.tolist() if stored.numel() <= 1 else f"{stored.numel()} numbers"
            raise ValueError(
                f"'{path}': its scale_factor is {value}, and one finite number above 0 was expected: set scale"
            )
    return Facts(scale=scale, prediction="v" if "v_pred" in tensors else None)


def resolve_facts(
    measured: Structure,
    first: FirstStageShape | None,
    tensors: Mapping[str, Tensor],
    path: Path,
    options: LoadOptions,
    config: ModelConfig | None,
    *,
    maps: bool,
) -> Facts:
    """Resolve the facts of a diffusion model from the structure of its U-Net and its first stage, if any.

    tensors: all tensors of the file. maps: it is conditioned on maps by a SpatialRescaler. Raises one ``ValueError``
    that names the settings to make if no source has a fact that the network needs.
    """
    sources = [facts_from_options(options), read_file_facts(tensors, path, options)]
    conflict = None if config is None else describe_mismatch(config, measured, first, str(path))
    if config is not None and _is_used(conflict, options):
        sources.append(read_facts(config))
    release = find_release(measured, first)
    if release is not None:
        sources.append(release.facts)
    facts = merge_facts(*sources)
    has_schedule = options.noise_schedule != "auto" or "alphas_cumprod" in tensors
    unknown = list_unknown_settings(facts, measured, latents=first is not None, maps=maps, schedule=not has_schedule)
    _check_conflict(unknown, conflict)
    if unknown and facts.unsettled and config is not None:
        raise ValueError(
            f"'{path}' does not tell {', '.join(unknown)}, and '{config.path}' says that it is of this model's own "
            f"training: set {', '.join(unknown)} on checkpoint.load"
        )
    if unknown and release is not None:
        note = release.note or f"set {', '.join(unknown)} on checkpoint.load, or put its config.yaml beside the file"
        raise ValueError(f"'{path}' does not tell {', '.join(unknown)}: {note}")
    if unknown:
        silence = "" if config is None else f", '{config.path}' does not say it"
        raise ValueError(
            f"'{path}' is in CompVis' layout but in none of its released shapes (channels {measured.channels}, widths "
            f"{measured.widths}, {measured.inputs} in, {measured.outputs} out){silence}, and its tensors do not tell "
            f"{', '.join(unknown)}: {HINT}"
        )
    return facts


def resolve_first_stage_scale(
    first: FirstStageShape,
    tensors: Mapping[str, Tensor],
    path: Path,
    options: LoadOptions,
    config: ModelConfig | None,
) -> float:
    """Resolve the scale of the latents of a first stage without its diffusion model.

    Raises ``ValueError`` for an unreleased shape, or one with several scales, if no source gives the scale.
    """
    sources = [facts_from_options(options), read_file_facts(tensors, path, options)]
    conflict = None if config is None else describe_first_stage_mismatch(config, first, str(path))
    if config is not None and _is_used(conflict, options):
        sources.append(read_scale(config))
    release = find_first_stage(replace(first, groups=32))
    if release is not None:
        sources.append(Facts(scale=release.scale))
    scale = merge_facts(*sources).scale
    _check_conflict(["scale"] if scale is None else [], conflict)
    if scale is None:
        reason = release.note if release is not None else "it is in none of the released shapes of first stages"
        raise ValueError(
            f"'{path}' is a first stage that does not tell the scale of its latents: {reason}. Set scale on "
            "checkpoint.load, or put the config.yaml of its training beside the file"
        )
    return scale


def resolve_first_stage_shift(first: FirstStageShape, path: Path, options: LoadOptions) -> float:
    """Resolve the shift of the latents of a first stage without its diffusion model.

    Raises ``ValueError`` for a shape that was released with several shifts if the options do not set it.
    """
    if options.shift is not None:
        return options.shift
    if replace(first, groups=32) == FLOW_STAGE:
        raise ValueError(
            f"'{path}' is a first stage that does not tell the shift of its latents: {FLOW_F8_NOTE}, on checkpoint.load"
        )
    return 0.0


def _is_used(conflict: str | None, options: LoadOptions) -> bool:
    """Whether to use a config.yaml; conflict: how it differs, if so. Raises ``ValueError`` if the user named it."""
    if conflict is not None and options.config is not None:
        raise ValueError(conflict)
    return conflict is None


def _check_conflict(unknown: list[str], conflict: str | None) -> None:
    """For a config.yaml in conflict, raise ``ValueError`` if facts are unknown, and warn otherwise."""
    if conflict is None:
        return
    if unknown:
        raise ValueError(f"{conflict}; or set {', '.join(unknown)} on checkpoint.load")
    warnings.warn(f"{conflict}. It was left aside: settings and the released model of this shape say all", stacklevel=2)

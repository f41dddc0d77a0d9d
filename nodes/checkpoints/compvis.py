"""CompVis single files: latent diffusion, Stable Diffusion 1 and 2, SDXL; and their first stages alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.nodes import schedule as schedules
from guidegraph.nodes.checkpoints.compvis_text import family, load_conditioner, load_sdxl_text
from guidegraph.nodes.checkpoints.filling import fill, with_axes
from guidegraph.nodes.checkpoints.first_stage import NEEDED, build_first_stage
from guidegraph.nodes.checkpoints.guided_diffusion import noise_schedule
from guidegraph.nodes.checkpoints.options import LoadOptions
from guidegraph.nodes.checkpoints.structure import Heads, Structure, measure, unet_shape
from guidegraph.nodes.models.released_denoiser import ReleasedDenoiser
from guidegraph.nodes.models.released_unet import ReleasedUNet
from guidegraph.nodes.types import PredictionKind, Schedule

UNET, EMA, FIRST, COND, SDXL = (
    "model.diffusion_model.",
    "model_ema.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.embedders.",
)
SCHEDULE_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "denoiser.sigmas",
)  # fmt: skip
MARKS = ("scale_factor", "cond_ids", "model_ema.decay", "model_ema.num_updates", "v_pred", "ztsnr", "global_step")
"""What a file says of itself: the latent's scale, the EMA's state, and what fine-tuned SDXL models predict."""

LOSS = "loss."
"""Under the first stage: the discriminator and the perceptual network of its training."""

SCALE_KL, SCALE_SDXL, SCALE_VQ = 0.18215, 0.13025, 1.0
HEAD_WIDTH = 64
LEGACY_HEADS = 8


def is_compvis(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are in the layout of a CompVis single file, or of a first stage alone."""
    return any(name.startswith((UNET, FIRST)) for name in tensors) or all(name in tensors for name in NEEDED)


def load_compvis(tensors: Mapping[str, Tensor], where: Path, options: LoadOptions) -> dict[str, Any]:
    """The parts of a CompVis single file, frozen, on the run's device and in its dtype.

    `denoiser`, `schedule`, `autoencoder`, and `text` or `label`, those that are there. Raises one ``ValueError`` that
    names the file for keys that are missing, left over or of another shape, and for what no tensor tells and no option
    says.
    """
    if not any(name.startswith((UNET, FIRST)) for name in tensors):
        return {"autoencoder": _first_stage(dict(tensors), tensors, where, False)}
    held = {prefix: _under(tensors, prefix) for prefix in (UNET, EMA, FIRST, COND, SDXL)}
    unknown = [
        name
        for name in tensors
        if not name.startswith(tuple(held)) and name not in SCHEDULE_BUFFERS and name not in MARKS
    ]
    if unknown:
        raise ValueError(
            f"'{where}' holds {len(unknown)} tensors that no known part has: {', '.join(sorted(unknown)[:4])}. It is "
            "of another architecture: nothing was loaded"
        )
    parts: dict[str, Any] = {}
    if held[FIRST]:
        parts["autoencoder"] = _first_stage(held[FIRST], tensors, where, bool(held[SDXL]))
    if not held[UNET]:
        return parts
    weights = _averaged(held[UNET], held[EMA], where) if options.ema else held[UNET]
    found = measure(weights, str(where))
    latent = parts["autoencoder"].config.latent_channels if "autoencoder" in parts else found.outputs
    kind = _kind(tensors, held[COND], found.inputs == latent, where, options)
    heads = _heads(found, family(held[COND]), options)
    shape = unet_shape(weights, str(where), samples=latent, heads=heads, kind=kind)
    if shape.classes is not None:
        raise ValueError(f"'{where}': a U-Net with {shape.classes} label embeddings in this layout is not supported")
    if held[SDXL]:
        parts["text"] = load_sdxl_text(held[SDXL], shape.adm_channels, where, options.tokenizer)
    else:
        parts.update(load_conditioner(held[COND], where, options.tokenizer))
    with torch.device("meta"):
        network = ReleasedUNet(shape)
    fill(network, weights, str(where), current_dtype(), current_device())
    parts["denoiser"] = ReleasedDenoiser(network).eval()
    parts["schedule"] = _schedule(tensors, where, options)
    return parts


def _first_stage(held: dict[str, Tensor], tensors: Mapping[str, Tensor], where: Path, sdxl: bool) -> Any:
    weights = {name: tensor for name, tensor in held.items() if not name.startswith(LOSS)}
    default = SCALE_SDXL if sdxl else SCALE_VQ if "quantize.embedding.weight" in weights else SCALE_KL
    scale = float(tensors["scale_factor"]) if "scale_factor" in tensors else default
    return build_first_stage(weights, str(where), scale)


def _averaged(weights: dict[str, Tensor], ema: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The moving averages of the weights, where the file has them, under the weights' names without dots."""
    state = {name.removeprefix(EMA) for name in MARKS}
    named = {name: tensor for name, tensor in ema.items() if name not in state}
    if not named:
        return weights
    names = {f"diffusion_model{name.replace('.', '')}": name for name in weights}
    trained = {short: tensor for short, tensor in named.items() if short in names}
    if len(trained) < len(names) or len(named) > len(trained):
        odd = sorted((set(names) | set(named)) - set(trained))
        raise ValueError(
            f"'{where}': the moving averages do not fit the weights ({len(odd)} names: {', '.join(odd[:4])}): "
            "set ema to false for the weights themselves"
        )
    return {names[short]: tensor for short, tensor in trained.items()}


def _kind(
    tensors: Mapping[str, Tensor], conditioner: Mapping[str, Tensor], plain: bool, where: Path, options: LoadOptions
) -> PredictionKind:
    """What the network predicts: as the options or the file say, else ε; Stable Diffusion 2 leaves it open."""
    if options.prediction != "auto":
        return options.prediction
    if "v_pred" in tensors:
        return "v"
    if family(conditioner) == "openclip" and plain:
        raise ValueError(
            f"'{where}' is of Stable Diffusion 2, whose files do not tell what the network predicts: set `prediction` "
            "of checkpoint.load to v (the models of 768 pixels) or to eps (the base models of 512 pixels)"
        )
    return "eps"


def _heads(found: Structure, conditioner: str, options: LoadOptions) -> Heads:
    """How the heads are laid out in the released models of each kind, unless the options say it."""
    order = "legacy" if options.attention == "auto" else options.attention
    if options.heads is not None or options.head_channels is not None:
        return Heads(options.heads, options.head_channels, order)
    if found.context_dim is None:  # latent diffusion without cross-attention
        return Heads(LEGACY_HEADS, None, order) if found.resblock_updown else Heads(None, HEAD_WIDTH // 2, order)
    if found.linear_projections:
        return Heads(None, HEAD_WIDTH, order)
    return Heads(1 if conditioner == "classes" else LEGACY_HEADS, None, order)


def _schedule(tensors: Mapping[str, Tensor], where: Path, options: LoadOptions) -> Schedule:
    """The schedule of the file's β or ᾱ, or Stable Diffusion's where it has none. Raises ``ValueError``."""
    if options.noise_schedule != "auto":
        return noise_schedule(options.noise_schedule)
    released = schedules.scaled_linear()
    if "alphas_cumprod" not in tensors:
        return schedules.zero_terminal_snr(released) if "ztsnr" in tensors else released
    stored = with_axes(tensors["alphas_cumprod"], str(where), "alphas_cumprod", 1)
    falls = stored.is_floating_point() and bool((stored.diff() <= 0).all() and 1 >= stored[0] > stored[-1] >= 0)
    if not falls:  # in half precision, neighbours may be equal
        raise ValueError(f"'{where}' holds no schedule: its alphas_cumprod do not fall from 1: set noise_schedule")
    exact = released.alphas_bar.cpu()
    tolerance = 8 * torch.finfo(stored.dtype).eps
    if stored.shape == exact.shape and torch.allclose(stored.double(), exact, rtol=tolerance, atol=tolerance):
        return released  # the same numbers, before they were rounded
    betas = tensors.get("betas")
    if betas is not None and betas.shape == stored.shape and betas.dtype in (torch.float32, torch.float64):
        return schedules.from_betas(betas.double().numpy())
    return Schedule(torch.from_numpy(np.asarray(stored.double())).to(current_device()))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

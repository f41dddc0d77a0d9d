"""Resolves the facts of a file in CompVis' layout: from settings, then the file, its config.yaml, and the table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from guidegraph.nodes.checkpoints.compvis.config import (
    ModelConfig,
    describe_first_stage_mismatch,
    describe_mismatch,
    read_facts,
    read_scale,
)
from guidegraph.nodes.checkpoints.compvis.model_facts import (
    Facts,
    facts_from_options,
    list_unknown_settings,
    merge_facts,
)
from guidegraph.nodes.checkpoints.compvis.releases import FLOW_F8_NOTE, find_first_stage, find_release
from guidegraph.nodes.checkpoints.first_stage import FLOW_STAGE
from guidegraph.nodes.checkpoints.infer_unet import Structure
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.released.autoencoder import FirstStageShape

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

"""Recognises the format of a checkpoint by its content, and loads its parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.compvis.config import find_checkpoint, is_compvis_folder
from guidegraph.nodes.checkpoints.compvis.single_file import is_compvis, load_compvis
from guidegraph.nodes.checkpoints.diffusers.folder import is_diffusers, load_diffusers
from guidegraph.nodes.checkpoints.guided_diffusion import is_guided_diffusion, load_guided_diffusion
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.checkpoints.transformers.dit import is_dit, load_dit
from guidegraph.nodes.checkpoints.transformers.flux import is_flux, load_flux
from guidegraph.nodes.checkpoints.transformers.pixart import is_pixart, load_pixart
from guidegraph.nodes.checkpoints.transformers.sd3 import is_sd3, load_sd3
from guidegraph.nodes.checkpoints.transformers.z_image import is_z_image, load_z_image
from guidegraph.nodes.types import Schedule


def load_parts(path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a checkpoint by name, frozen, on the run's device and in its dtype.

    Raises one ``ValueError`` that names the path and its content if it is not a checkpoint, has an unknown layout, or
    is incomplete; and if the options call it a flow and it has a noise schedule. Then nothing is loaded.
    """
    if options.transformer is not None and not (path.is_dir() and is_diffusers(path)):
        raise ValueError(
            f"'{path}' is not a diffusers folder of a pipeline, whose transformer may be that of another file: leave "
            "transformer out"
        )
    parts = _load_layout(path, options)
    schedule = parts.get("schedule")
    is_flow = options.prediction == "flow" or getattr(parts.get("denoiser"), "kind", None) == "flow"
    if is_flow and isinstance(schedule, Schedule) and schedule.form != "flow":
        raise ValueError(
            f"'{path}' has a schedule of β, and a flow has none: leave prediction out, or noise_schedule if it is set"
        )
    return parts


def _load_layout(path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts by the loader of the checkpoint's layout."""
    if path.is_dir() and is_diffusers(path):
        return load_diffusers(path, options)
    if path.is_dir() and not is_compvis_folder(path):
        raise ValueError(
            f"'{path}' is a folder of no known layout (diffusers, CompVis with its config.yaml); found "
            f"{_first([entry.name for entry in path.iterdir()])}: name a checkpoint file, or the folder that holds "
            "model_index.json"
        )
    file = find_checkpoint(path) if path.is_dir() else path
    tensors = read_tensors(file, averages=options.ema)
    if is_guided_diffusion(tensors) and not path.is_dir():
        return load_guided_diffusion(tensors, file, options)
    if is_dit(tensors) and not path.is_dir():
        return load_dit(tensors, file, options)
    if is_pixart(tensors) and not path.is_dir():
        return load_pixart(tensors, file, options)
    if is_sd3(tensors) and not path.is_dir():
        return load_sd3(tensors, file, options)
    if is_flux(tensors) and not path.is_dir():
        return load_flux(tensors, file, options)
    if is_z_image(tensors) and not path.is_dir():
        return load_z_image(tensors, file, options)
    if is_compvis(tensors) or path.is_dir():
        return load_compvis(tensors, file, options)
    raise ValueError(
        f"'{path}' has tensors of no known layout (guided-diffusion, CompVis, DiT, PixArt, Stable Diffusion 3, Flux.1, "
        f"Z-Image); found {len(tensors)} tensors: {_first(tensors)}"
    )


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (" …" if len(listed) > 5 else "") or "nothing"

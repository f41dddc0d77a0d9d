"""What tells the folders and files of diffusers and CompVis from others, without opening any weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from guidegraph.nodes.checkpoints.config_values import UnreadableYaml, load_yaml

INDEX = "model_index.json"
CONFIG = "config.yaml"
SUFFIXES = (".ckpt", ".safetensors", ".pt")
UNET, FIRST = "model.diffusion_model.", "first_stage_model."
"""Prefixes in a CompVis single file."""
FIRST_STAGE = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
"""Tensors that every first stage has."""


def is_diffusers(folder: Path) -> bool:
    """Whether diffusers wrote a folder: a pipeline, or a single network."""
    return (folder / INDEX).is_file() or (folder / "config.json").is_file()


def is_compvis_folder(folder: Path) -> bool:
    """Whether a folder holds a CompVis config.yaml next to checkpoint files, as in the releases."""
    return is_compvis_config(load_beside(folder)) and any(list_checkpoints(folder))


def find_checkpoint(folder: Path) -> Path:
    """The only checkpoint file of such a folder. Raises ``ValueError`` if there are several."""
    files = list_checkpoints(folder)
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"'{folder}' holds {len(files)} checkpoint files, {names}: name the file")
    return files[0]


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, sorted."""
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def load_beside(folder: Path) -> object:
    """Load the config.yaml of a folder, from any software; None if it is missing or unreadable."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return load_yaml(path)
    except UnreadableYaml as error:
        warnings.warn(f"{error}. It was left alone, as that of other software", stacklevel=2)
        return None


def is_compvis_config(content: object) -> bool:
    """Whether a document has the form `model: {target, params}`."""
    model = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(model, Mapping) and isinstance(model.get("params"), Mapping) and "target" in model


def is_compvis(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of a CompVis single file, or of a first stage only."""
    return any(name.startswith((UNET, FIRST)) for name in tensors) or all(name in tensors for name in FIRST_STAGE)

"""Recognises the format of a checkpoint by its content, and loads its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.nodes.checkpoints.compvis.config import find_checkpoint, is_compvis_folder
from guidegraph.nodes.checkpoints.compvis.single_file import is_compvis, load_compvis
from guidegraph.nodes.checkpoints.diffusers.folder import is_diffusers, load_diffusers
from guidegraph.nodes.checkpoints.guided_diffusion import is_guided_diffusion, load_guided_diffusion
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileFormat:
    """A file format: a test for its tensors, and the loader of the parts."""

    name: str
    recognise: Callable[[Tensors], bool]
    load: Callable[[Tensors, Path, LoadOptions], dict[str, Any]]


@dataclass(frozen=True)
class FolderFormat:
    """A folder format: a test for a folder, and the loader of the parts."""

    name: str
    recognise: Callable[[Path], bool]
    load: Callable[[Path, LoadOptions], dict[str, Any]]


def load_guided_diffusion_file(tensors: Tensors, path: Path, options: LoadOptions) -> dict[str, Any]:
    return load_guided_diffusion(tensors, str(path), options, device=current_device(), dtype=current_dtype())


FILES = (
    FileFormat("guided-diffusion", is_guided_diffusion, load_guided_diffusion_file),
    FileFormat("CompVis", is_compvis, load_compvis),
)


def load_compvis_folder(path: Path, options: LoadOptions) -> dict[str, Any]:
    return load_compvis(read_tensors(find_checkpoint(path)), find_checkpoint(path), options)


DIFFUSERS = FolderFormat("diffusers", is_diffusers, load_diffusers)
COMPVIS = FolderFormat("CompVis with its config.yaml", is_compvis_folder, load_compvis_folder)
FOLDERS = (DIFFUSERS, COMPVIS)


def identify_folder(path: Path) -> FolderFormat | None:
    """The first format that recognises a folder, or None."""
    return next((folder for folder in FOLDERS if folder.recognise(path)), None)


def load_parts(path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a checkpoint by name, frozen, on the run's device and in its dtype.

    Raises one ``ValueError`` that names the path and its content if it is not a checkpoint, has an unknown layout, or
    is incomplete; then nothing is loaded.
    """
    if path.is_dir():
        if (folder := identify_folder(path)) is not None:
            return folder.load(path, options)
        names = sorted(entry.name for entry in path.iterdir())
        raise ValueError(
            f"'{path}' is a folder of no known layout ({_format_names(FOLDERS)}); found {_first(names)}: name a "
            "checkpoint file, or the folder that holds model_index.json"
        )
    tensors = read_tensors(path)
    for file in FILES:
        if file.recognise(tensors):
            return file.load(tensors, path, options)
    raise ValueError(
        f"'{path}' has tensors of no known layout ({_format_names(FILES)}); found {len(tensors)} tensors: "
        f"{_first(sorted(tensors))}"
    )


def _format_names(formats: tuple[FileFormat, ...] | tuple[FolderFormat, ...]) -> str:
    return ", ".join(format.name for format in formats) or "none is read"


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") or "nothing"

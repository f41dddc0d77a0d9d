"""The families of released checkpoints: they come in through the hook that any plugin uses.

They are listed without their loaders, which import torch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph import Family, hookimpl
from guidegraph.nodes.checkpoints.folders import is_compvis_config, is_diffusers

if TYPE_CHECKING:
    from guidegraph.nodes.checkpoints.family import Config, Headers
    from guidegraph.nodes.checkpoints.load_options import LoadOptions

COMPVIS = "CompVis"
LAYOUTS = ("guided-diffusion", COMPVIS, "DiT", "PixArt", "Stable Diffusion 3", "Flux.1", "Z-Image")
"""The layouts of single files, by their names in `layouts.LAYOUTS`."""


@hookimpl
def guidegraph_families() -> list[Family]:
    layouts = [Family(name, partial(recognise_layout, name), partial(open_layout, name)) for name in LAYOUTS]
    return [Family("diffusers", recognise_diffusers, open_diffusers, explain_diffusers), *layouts]


def recognise_diffusers(headers: Headers, config: Config) -> bool:
    """Whether a folder is one of diffusers whose classes are all known."""
    from guidegraph_families.diffusers.folder import knows_classes

    return config is not None and knows_classes(config)


def open_diffusers(path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a diffusers folder; see `load_diffusers`."""
    from guidegraph_families.diffusers.folder import load_diffusers

    return load_diffusers(path, options)


def explain_diffusers(path: Path, options: LoadOptions) -> None:
    """Raise ``ValueError`` that names the classes of a diffusers folder that are not known."""
    if path.is_dir() and is_diffusers(path):
        open_diffusers(path, options)


def recognise_layout(name: str, headers: Headers, config: Config) -> bool:
    """Whether a file has a layout and none before it in `LAYOUTS`; a CompVis folder is known by its config.yaml."""
    from guidegraph_families.layouts import find_layout

    return find_layout(headers) == name if config is None else name == COMPVIS and is_compvis_config(config)


def open_layout(name: str, path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a file of a layout, or of the file in a CompVis folder."""
    from guidegraph_families.layouts import load_layout

    return load_layout(name, path, options)

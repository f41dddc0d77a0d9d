"""The layouts of single files, which the families recognise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from guidegraph.nodes.checkpoints.folders import find_checkpoint, is_compvis
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph_families.compvis.single_file import load_compvis
from guidegraph_families.dit.single_file import is_dit, load_dit
from guidegraph_families.flux.single_file import is_flux, load_flux
from guidegraph_families.guided_diffusion import is_guided_diffusion, load_guided_diffusion
from guidegraph_families.pixart.single_file import is_pixart, load_pixart
from guidegraph_families.sd3 import is_sd3, load_sd3
from guidegraph_families.z_image.single_file import is_z_image, load_z_image

Test: TypeAlias = Callable[[Mapping[str, object]], bool]
Load: TypeAlias = Callable[[Mapping[str, Tensor], Path, LoadOptions], dict[str, Any]]

LAYOUTS: dict[str, tuple[Test, Load]] = {
    "guided-diffusion": (is_guided_diffusion, load_guided_diffusion),
    "DiT": (is_dit, load_dit),
    "PixArt": (is_pixart, load_pixart),
    "Stable Diffusion 3": (is_sd3, load_sd3),
    "Flux.1": (is_flux, load_flux),
    "Z-Image": (is_z_image, load_z_image),
    "CompVis": (is_compvis, load_compvis),
}
"""By the names of the families: a file that has several of them is of the first."""


def find_layout(headers: Mapping[str, object]) -> str | None:
    """The layout of a file with tensors of these names; None for an unknown one."""
    return next((name for name, (has_layout, _) in LAYOUTS.items() if has_layout(headers)), None)


def load_layout(name: str, path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a file, or of the only checkpoint file in a folder, by the loader of a layout.

    Raises ``ValueError`` as `read_tensors` and the loader do, and for a folder with several files.
    """
    file = find_checkpoint(path) if path.is_dir() else path
    return LAYOUTS[name][1](read_tensors(file, averages=options.ema), file, options)

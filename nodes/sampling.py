"""How the software of a released checkpoint sets its sampler."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from guidegraph.graph.node import node


class Sampling(NamedTuple):
    """Settings for a scheduler node: offset (an int), final ("one" or "first") and spacing, each by its name."""

    offset: int
    final: str
    spacing: str


@node("checkpoint.sampling", host=True)
def checkpoint_sampling(*, path: Path) -> Sampling:
    """The timesteps that the software of a checkpoint visits, to wire into scheduler.ddim and others.

    path: the checkpoint. Of a diffusers folder they are those of its scheduler_config.json; a CompVis single file, or
    a folder with one and its config.yaml, has Stable Diffusion's (offset 1, the last ᾱ is ᾱ_0, leading), any other file
    offset 0 and 1 as the last ᾱ.
    Raises an error for a folder without a scheduler, and for a file that is no checkpoint.
    """
    from guidegraph.nodes.checkpoints.compvis import is_compvis
    from guidegraph.nodes.checkpoints.diffusers_config import read_json
    from guidegraph.nodes.checkpoints.diffusers_schedule import CONFIG, sampling
    from guidegraph.nodes.checkpoints.loading import COMPVIS, folder_format
    from guidegraph.nodes.checkpoints.reading import read_tensors

    if path.is_dir() and folder_format(path) is not COMPVIS:
        where = path / "scheduler" / CONFIG
        return Sampling(*sampling(read_json(where), where))
    if path.is_dir() or is_compvis(read_tensors(path)):
        return Sampling(1, "first", "leading")
    return Sampling(0, "one", "leading")

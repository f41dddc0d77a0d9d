"""The sampler settings that a released checkpoint's own software uses."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from guidegraph.graph.node import node
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.diffusers.schedule import CONFIG, read_flow_shift, read_sampler_settings
from guidegraph.nodes.checkpoints.folders import is_compvis, is_compvis_folder, is_diffusers


class Sampling(NamedTuple):
    """Settings for a scheduler node: offset (an int), final ("one" or "first") and spacing, by name."""

    offset: int
    final: str
    spacing: str


class FlowShiftSettings(NamedTuple):
    """Settings for schedule.flow_shift, by name: μ at two numbers of tokens."""

    base_shift: float
    max_shift: float
    base_tokens: int
    max_tokens: int


@node("checkpoint.flow_shift", host=True)
def checkpoint_flow_shift(*, path: Path) -> FlowShiftSettings:
    """How a flow's levels shift with the size of the picture, to wire into schedule.flow_shift.

    path: a diffusers folder, whose scheduler_config.json has it. A fixed shift s, as Flux.1 schnell's 1, is μ = log s
    at every size.
    Raises an error for a folder without a scheduler, and for a scheduler that is not a flow's.
    """
    if not path.is_dir():
        raise ValueError(
            f"'{path}' is not a folder, and only a diffusers folder tells how its levels shift: set the shift"
        )
    config_path = path / "scheduler" / CONFIG
    return FlowShiftSettings(*read_flow_shift(read_json(config_path), config_path))


@node("checkpoint.sampling", host=True, version=2)
def checkpoint_sampling(*, path: Path) -> Sampling:
    """The settings for the timesteps of a checkpoint's own software, to wire into scheduler.ddim and others.

    `scheduler.of_checkpoint` is the whole sampler of a diffusers folder, with its solver, order and spacing of σ.
    path: the checkpoint. A diffusers folder has them in its scheduler_config.json: the fields that the config's class
    reads, and its defaults. A CompVis single file, or a folder
    with one and its config.yaml, has Stable Diffusion's (offset 1, the last ᾱ is ᾱ_0, leading). Any other file has
    offset 0 and 1 as the last ᾱ.
    Raises an error for a folder without a scheduler, and for a file that is not a checkpoint.
    """
    from guidegraph.nodes.checkpoints.read_tensors import read_tensors

    if path.is_dir() and (is_diffusers(path) or not is_compvis_folder(path)):
        config_path = path / "scheduler" / CONFIG
        return Sampling(*read_sampler_settings(read_json(config_path), config_path))
    if path.is_dir() or is_compvis(read_tensors(path)):
        return Sampling(1, "first", "leading")
    return Sampling(0, "one", "leading")

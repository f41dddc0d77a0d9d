"""The sampler that a checkpoint's own scheduler config describes."""

from __future__ import annotations

from pathlib import Path

from guidegraph.graph.node import node
from guidegraph.nodes.checkpoints.diffusers.samplers import read_recipe
from guidegraph.nodes.derive import to_engine, to_runtime
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.types import Schedule
from guidegraph_runtime.declare import settings
from guidegraph_runtime.declare.settings import Fraction, Steps
from guidegraph_runtime.samplers.sampler import SAMPLERS
from guidegraph_runtime.tables.noise_levels import count_kept_steps, parse_schedule


@node("scheduler.of_checkpoint", host=True)
def of_checkpoint(schedule: Schedule, *, path: Path, steps: Steps = 30, strength: Fraction = 1.0) -> Sampler:
    """The sampler of a diffusers folder: solver, timesteps, end, order and clipping as its scheduler config has them.

    The class of the config decides: fields that it does not read are ignored, and absent ones have its defaults.
    Timesteps are rounded where diffusers rounds them. Samplers that draw noise need it at scheduler.step. In a bundle,
    use the sampler's own node instead. The loop starts from noise of unit variance; pipelines of diffusers multiply it
    by σ, 0.998 for Stable Diffusion, for classes that step in σ/α with linspace or trailing timesteps, which moves the
    sample by 0.2 %.
    Raises an error for a class or a setting that no sampler here repeats, with a replacement, for a schedule of
    another form, and for a folder without a scheduler.

    schedule: the checkpoint's; if its levels shift with the size of the picture, the one from schedule.flow_shift.
    path: the folder, whose scheduler/scheduler_config.json is read, and model_index.json for a flow. steps: of the
    solver; some call the model more than once per step. strength: run only this last fraction of the steps.
    """
    noise = parse_schedule(to_runtime(schedule))
    recipe = read_recipe(path, noise, steps)
    taken = len(recipe.visited) - 1  # a class that cuts off the noisiest timesteps may take fewer
    skipped = taken - count_kept_steps(taken, strength)
    if skipped and recipe.no_start_in_the_middle:
        reason = recipe.no_start_in_the_middle
        raise ValueError(f"strength: the class of '{path}' cannot start in the middle as diffusers does: {reason}")
    ends = None if recipe.ends is None else recipe.ends[skipped:]
    table = SAMPLERS[recipe.sampler].follow(noise, recipe.visited[skipped:], recipe.settings, skipped, ends)
    return Sampler(
        to_engine(table.scheduler, settings.Scheduler),
        to_engine(table.steps, None),
        to_engine(table.state, settings.SchedulerState),
    )

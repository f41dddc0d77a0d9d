"""Schedulers of diffusers as samplers: values that a loop carries next to x, which is in variance-preserving form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le

from guidegraph import Noise, Prediction, Sample, Schedule, Timesteps, node
from guidegraph_diffusers.folders import (
    SCHEDULER_CONFIG,
    find_part_folder,
    import_diffusers,
    one_line,
    read_json,
)
from guidegraph_diffusers.schedules import (
    PARTS,
    alphas_bar_of,
    complete_config,
    compute_size_shift,
    is_flow,
)

Option = bool | int | float | str | None
Spacing = Literal["auto", "own", "trailing"]

KNOWN = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


@dataclass(frozen=True, eq=False)
class DiffusersSampler:
    """A scheduler of diffusers before one of its steps: ``scheduler``, which is never changed, and the step's index."""

    scheduler: Any
    index: int = 0


class NewSampler(NamedTuple):
    sampler: DiffusersSampler
    steps: Timesteps


class StepResult(NamedTuple):
    x: Sample
    sampler: DiffusersSampler


@node("diffusers.scheduler", host=True)
def new_sampler(
    schedule: Schedule,
    like: Sample | None = None,
    *,
    path: Path | None = None,
    name: str | None = None,
    steps: Annotated[int, Ge(1)] = 30,
    spacing: Spacing = "auto",
    options: dict[str, Option] | None = None,
) -> NewSampler:
    """A scheduler of diffusers, and the timesteps of its model calls on the schedule's axis, for a loop to run over.

    schedule: the denoiser's. path: a pipeline's folder, or the scheduler's own. name: a class of diffusers, made from
    that folder's configuration or, without a path, for the schedule, unclipped. options: replace entries of the
    configuration (`use_karras_sigmas: true`). like: as for `diffusers.schedule`. spacing, for flow matching: `trailing`
    is s = 1 … 1/steps before the shift, `own` the scheduler's own; `auto` is trailing for a Flux pipeline's folder,
    as the pipeline does.

    Raises an error for a class that is not supported, an option that it does not have, a schedule that is not the
    scheduler's, and a flow schedule.
    """
    from guidegraph_diffusers import sample_spaces

    if schedule.form == "flow":
        raise ValueError(
            "the schedule is a flow, and this adapter keeps x variance-preserving: wire diffusers.schedule, or use a "
            "scheduler.* node in place of diffusers' sampler"
        )
    config = _config(schedule, path, name, options or {})
    scheduler = _make_scheduler(config)
    flow = is_flow(config)
    if path is not None:
        _check_schedule(schedule, config, like, path)
    _set_steps(scheduler, config, like, steps, flow and _trailing(spacing, path))
    return NewSampler(DiffusersSampler(scheduler), sample_spaces.timesteps_on_axis(scheduler, schedule, flow))


@node("diffusers.start", shape=lambda noise: noise.shape)
def start(sampler: DiffusersSampler, noise: Noise) -> Sample:
    """The noise (B, C, H, W) at the level that diffusers' own pipelines start from, in variance-preserving form.

    It differs from the noise itself for schedulers in σ/α with linspace or trailing timesteps, which start from σ·noise
    while others start from unit noise, and for flow matching that starts below s = 1.
    """
    from guidegraph_diffusers import sample_spaces

    return sample_spaces.start_sample(sampler.scheduler, sampler.index, noise)


@node("diffusers.step", host=True)
def step(
    sampler: DiffusersSampler,
    x: Sample,
    prediction: Prediction,
    t: Timesteps,
    noise: Noise | None = None,
    *,
    eta: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> StepResult:
    """Move x (B, C, H, W) along the sampler by one model call; the given sampler does not change.

    The prediction, of any kind, is converted to the kind that the scheduler takes. Computes in float32 and returns x in
    its own dtype. t: not used, as in `scheduler.step`. noise: fresh standard normal noise, for schedulers that draw
    some. eta: for DDIM and TCD.

    Raises an error if a scheduler draws noise and none is wired.
    """
    from guidegraph_diffusers import sample_spaces

    if sampler.index >= len(sampler.scheduler.timesteps):
        raise ValueError(
            f"the sampler has {len(sampler.scheduler.timesteps)} steps and no step {sampler.index}: the loop must run "
            "over the 'steps' of the node whose 'sampler' it carries"
        )
    moved, scheduler = sample_spaces.step_sample(sampler.scheduler, sampler.index, x, prediction, noise, eta)
    return StepResult(moved, replace(sampler, scheduler=scheduler, index=sampler.index + 1))


def _config(schedule: Schedule, path: Path | None, name: str | None, options: dict[str, Option]) -> dict[str, Any]:
    import_diffusers()
    if path is None and name is None:
        raise ValueError("give `path`, a folder with a scheduler_config.json, or `name`, a scheduler's class")
    if path is None:
        alphas_bar = schedule.alphas_bar.double().cpu()
        betas = 1 - alphas_bar / alphas_bar.roll(1).index_fill(0, alphas_bar.new_zeros(1).long(), 1.0)
        kind = "epsilon" if float(alphas_bar[-1]) > 0 else "sample"  # ε does not determine x0 at ᾱ = 0
        settings: dict[str, Any] = {"trained_betas": betas.tolist(), "num_train_timesteps": schedule.train_steps}
        settings |= {"clip_sample": False, "prediction_type": kind}
        source = "the setting `name`"
    else:
        folder = find_part_folder(path, "auto", PARTS, SCHEDULER_CONFIG)
        settings, source = read_json(folder / SCHEDULER_CONFIG), f"'{folder / SCHEDULER_CONFIG}'"
    settings["_class_name"] = name or settings.get("_class_name")
    if settings["_class_name"] not in KNOWN:
        raise ValueError(
            f"{source} is {settings['_class_name']!r}, no scheduler that this adapter knows; it knows "
            f"{', '.join(KNOWN)}"
        )
    full = complete_config(settings, source)
    option_names = sorted(key for key in full if not key.startswith("_"))
    if unknown := sorted(set(options) - set(option_names)):
        raise ValueError(
            f"a {full['_class_name']} has no option {', '.join(unknown)}; it has {', '.join(option_names)}"
        )
    return full | options


def _make_scheduler(config: dict[str, Any]) -> Any:
    import inspect

    diffusers = import_diffusers()
    if config.get("timestep_type") == "continuous" or config.get("invert_sigmas"):
        raise ValueError(f"this {config['_class_name']} has no timesteps on a schedule (EDM, Mochi): not supported")
    kind = getattr(diffusers, config["_class_name"])
    parameters = inspect.signature(kind.__init__).parameters
    try:
        return kind(**{key: value for key, value in config.items() if key in parameters})
    except Exception as error:
        raise ValueError(f"a {config['_class_name']} cannot be made: {one_line(error)}") from error


def _check_schedule(schedule: Schedule, config: dict[str, Any], like: Sample | None, path: Path) -> None:
    import torch

    expected = torch.from_numpy(alphas_bar_of(config, like, str(path)))
    actual = schedule.alphas_bar.double().cpu()
    if actual.shape != expected.shape or not torch.allclose(actual, expected, rtol=1e-3, atol=1e-6):
        raise ValueError(f"the schedule is not that of the scheduler in '{path}': wire diffusers.schedule of this path")


def _trailing(spacing: Spacing, path: Path | None) -> bool:
    if spacing != "auto" or path is None or not (path / "model_index.json").is_file():
        return spacing == "trailing"
    return str(read_json(path / "model_index.json").get("_class_name")).startswith("Flux")


def _set_steps(scheduler: Any, config: dict[str, Any], like: Sample | None, steps: int, trailing: bool) -> None:
    more: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        more["mu"] = compute_size_shift(config, like)
    if trailing:
        more["sigmas"] = [1 - i / steps for i in range(steps)]
    try:
        scheduler.set_timesteps(steps, device="cpu", **more)
    except Exception as error:
        raise ValueError(f"{steps} steps do not fit a {config['_class_name']}: {one_line(error)}") from error

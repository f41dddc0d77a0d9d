"""Converts between variance-preserving x and the form in which a scheduler of diffusers keeps its sample.

The form is x itself (DDIM, DPM-Solver …), x/α (Euler, Heun …, whose σ is σ/α) or flow matching's (1 − s) x0 + s ε. Each
is x times a number that depends on the noise level.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from guidegraph import Prediction, Schedule
from guidegraph_diffusers.denoisers import KINDS
from guidegraph_diffusers.schedules import is_flow


def timesteps_on_axis(scheduler: Any, schedule: Schedule, flow: bool) -> Tensor:
    """The timesteps (R), float32, on the schedule's axis; for flow matching, where log(s/(1 − s)) = log(σ/α)."""
    times: Tensor = scheduler.timesteps.float()
    if not flow:
        return times.to(schedule.alphas_bar.device)
    s = scheduler.sigmas[: len(scheduler.timesteps)].double().numpy()
    bar = schedule.alphas_bar.double().cpu().numpy()
    with np.errstate(divide="ignore"):
        targets, levels = np.log(s) - np.log1p(-s), 0.5 * (np.log1p(-bar) - np.log(bar))
    # At the schedule's last level, s = 1, the logarithm is infinite, so it is left out of the interpolation.
    last = len(levels) - 1
    inner = np.interp(targets, levels[:-1], np.arange(last))
    positions = np.where(s > (1 + 1 / (1 + np.exp(-levels[-2]))) / 2, float(last), inner)
    return torch.from_numpy(positions).float().to(schedule.alphas_bar.device)


def start_sample(scheduler: Any, index: int, noise: Tensor) -> Tensor:
    """Scale noise by init_noise_sigma (1 for flow matching), in variance-preserving form."""
    scheduler = _copy_scheduler(scheduler)
    size = 1.0 if _is_flow_scheduler(scheduler) else scheduler.init_noise_sigma
    scaled: Tensor = noise.float() * size * _scale(scheduler, index).to(noise.device)
    return scaled.to(noise.dtype)


def step_sample(
    scheduler: Any, index: int, x: Tensor, prediction: Prediction, noise: Tensor | None, eta: float
) -> tuple[Tensor, Any]:
    """Return x after the step, and a copy of the scheduler after it: diffusers' schedulers change as they step."""
    scheduler = _copy_scheduler(scheduler)
    sample = x.float() / _scale(scheduler, index).to(x.device)
    output = _convert_prediction(scheduler, index, x.float(), sample, prediction)
    kwargs: dict[str, Any] = {"eta": eta} if "eta" in inspect.signature(scheduler.step).parameters else {}
    with _NoiseForRandn(noise, sample):
        moved: Tensor = scheduler.step(output, scheduler.timesteps[index], sample, **kwargs).prev_sample
    if index + 1 < len(scheduler.timesteps):
        moved = moved * _scale(scheduler, index + 1).to(x.device)
    return moved.to(x.dtype), scheduler


def _is_flow_scheduler(scheduler: Any) -> bool:
    return is_flow({"_class_name": type(scheduler).__name__, **scheduler.config})


def _copy_scheduler(scheduler: Any) -> Any:
    """Copy a scheduler; it shares tensors but not lists, which a step changes in place."""
    copied = copy.copy(scheduler)
    lists = {name: list(value) for name, value in vars(copied).items() if isinstance(value, list)}
    vars(copied).update(lists)
    return copied


def _scale(scheduler: Any, index: int) -> Tensor:
    """The factor from the scheduler's sample to variance-preserving x at a step: 0-dimensional."""
    if _is_flow_scheduler(scheduler):
        s = _sigma(scheduler, index)
        return ((1 - s) ** 2 + s**2).rsqrt().float()
    scaled: Tensor = scheduler.scale_model_input(torch.ones(()), scheduler.timesteps[index])
    return scaled


def _convert_prediction(scheduler: Any, index: int, x: Tensor, sample: Tensor, prediction: Prediction) -> Tensor:
    """Convert the prediction to the network output that the scheduler expects."""
    config: Mapping[str, Any] = scheduler.config
    kind = "flow" if _is_flow_scheduler(scheduler) else KINDS[config["prediction_type"]]
    level = _level(scheduler, index).to(x.device)
    constant = Schedule(torch.stack([level, level]))  # a schedule with the step's level at both timesteps
    value = Prediction(prediction.value.float(), prediction.kind)
    if kind == "flow":
        s = _sigma(scheduler, index).float().to(x.device)
        return (sample - constant.convert(value, "x0", x, x.new_zeros(1)).value) / s
    output = constant.convert(value, kind, x, x.new_zeros(1)).value  # type: ignore[arg-type]
    if config.get("variance_type") in ("learned", "learned_range"):
        if prediction.variance is None:
            raise ValueError(f"this scheduler's variance is {config['variance_type']} and the prediction has none")
        output = torch.cat([output, prediction.variance.float()], dim=1)
    return output


def _level(scheduler: Any, index: int) -> Tensor:
    """ᾱ at a step, float64."""
    if _is_flow_scheduler(scheduler):
        s = _sigma(scheduler, index)
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
    alpha = _scale(scheduler, index).double()
    if float(alpha) != 1:
        return alpha**2
    if hasattr(scheduler, "sigmas"):
        return 1 / (_sigma(scheduler, index) ** 2 + 1)
    level: Tensor = scheduler.alphas_cumprod[scheduler.timesteps[index].long()].double()
    return level


def _sigma(scheduler: Any, index: int) -> Tensor:
    """The scheduler's own σ at a step, float64: s for flow matching, σ/α for others."""
    sigma: Tensor = scheduler.sigmas[index].double()
    return sigma


class _NoiseForRandn(TorchFunctionMode):
    """Makes `torch.randn` return the wired noise, since diffusers' schedulers lack an argument for it."""

    def __init__(self, noise: Tensor | None, like: Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.like = like

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        if self.noise is None:
            raise ValueError(
                "this scheduler draws noise at its steps and port 'noise' has none: wire a noise.gaussian with "
                "like: carry.x and index: loop.index to it"
            )
        return self.noise.to(self.like).expand_as(self.like)

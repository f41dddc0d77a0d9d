"""Reads scheduler_config.json of diffusers: the noise schedule, the kind of prediction, and settings of the sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.checkpoints.config_values import (
    format_value,
    read_choice,
    read_flag,
    read_integer,
    read_number,
    read_numbers,
)
from guidegraph.nodes.checkpoints.diffusers.config import check_config, read_json
from guidegraph.nodes.checkpoints.diffusers.samplers import CLASSES
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import PredictionKind, Schedule

KINDS: dict[str, PredictionKind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SPACINGS = ("leading", "trailing", "linspace")
CONFIG = "scheduler_config.json"

NARROW_CLASSES = (
    "DPMSolverSDEScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
"""Classes whose β go from 0.00085 to 0.012 where `beta_start` and `beta_end` are absent, as Stable Diffusion's do."""
LINSPACE_CLASSES = ("DPMSolverSinglestepScheduler", "SASolverScheduler")
"""Classes that space timesteps by linspace, the first whatever `timestep_spacing` is."""
FIRST_CLASSES = ("DEISMultistepScheduler", "SASolverScheduler", "TCDScheduler")
"""Classes that end at ᾱ_0, whatever `set_alpha_to_one` and `final_sigmas_type` are."""

FLOW_CLASSES = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
FLOW_USED = ("num_train_timesteps", "shift", "use_dynamic_shifting")
FLOW_IGNORED = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
"""Without effect, or of a shift that depends on the size of the picture, which is schedule.flow_shift's."""


class SamplerSettings(NamedTuple):
    """Settings of a checkpoint's sampler, as our sampler nodes take them: offset, final and spacing."""

    offset: int
    final: Literal["one", "first"]
    spacing: Literal["leading", "trailing", "linspace"]


class FlowShift(NamedTuple):
    """The shift of a flow's levels as settings of `schedule.flow_shift`: μ at two numbers of tokens."""

    base_shift: float
    max_shift: float
    base_tokens: int
    max_tokens: int


def read_scheduler(folder: Path) -> tuple[Schedule, PredictionKind]:
    """Read the schedule of a scheduler folder, and the kind of prediction that it expects. Raises ``ValueError``."""
    path = folder / CONFIG
    config = read_json(path)
    if config.get("_class_name") in FLOW_CLASSES:
        return build_flow(config, path), "flow"
    return build_noise_schedule(config, path), read_prediction_kind(config, path)


def build_flow(config: Mapping[str, Any], path: Path) -> Schedule:
    """Build the schedule of a flow's scheduler_config.json; its shift is 1 where the size of the picture gives it.

    Raises one ``ValueError`` that names the file and the fields that space σ in another way.
    """
    check_config(config, path, FLOW_USED, {}, FLOW_IGNORED)
    steps = read_integer(config, "num_train_timesteps", 1000, path)
    depends_on_size = read_flag(config, "use_dynamic_shifting", False, path)
    return schedules.flow(train_steps=steps, shift=1.0 if depends_on_size else read_number(config, "shift", 1.0, path))


def read_flow_shift(config: Mapping[str, Any], path: Path) -> FlowShift:
    """The shift of a flow's levels by the number of tokens; a fixed shift s is μ = log s at all of them.

    Raises one ``ValueError`` that names the file for a scheduler that is not a flow's, and for unsupported values.
    """
    name = config.get("_class_name")
    if name not in FLOW_CLASSES:
        raise ValueError(
            f"'{path}' is of {name or 'a scheduler without a class name'}; a flow's is {' or '.join(FLOW_CLASSES)}"
        )
    fixed = build_flow(config, path).shift
    base, most = (read_integer(config, f"{end}_image_seq_len", n, path) for end, n in (("base", 256), ("max", 4096)))
    if not config.get("use_dynamic_shifting"):
        return FlowShift(math.log(fixed), math.log(fixed), base, most)
    read_choice(config, "time_shift_type", "exponential", path, ("exponential",))  # that of schedule.flow_shift
    ends = (read_number(config, "base_shift", 0.5, path), read_number(config, "max_shift", 1.15, path))
    return FlowShift(*ends, base, most)


def build_noise_schedule(config: Mapping[str, Any], path: Path) -> Schedule:
    """Build the schedule of a scheduler_config.json. Raises ``ValueError`` for one without β, such as a flow's."""
    name = config.get("beta_schedule")
    betas = config.get("trained_betas")
    if name is None and betas is None:
        raise ValueError(
            f"'{path}' gives no 'beta_schedule': {config.get('_class_name', 'it')} is not for a variance-preserving "
            "diffusion, which is what is supported"
        )
    steps = read_integer(config, "num_train_timesteps", 1000, path)
    defaults = (8.5e-4, 0.012) if config.get("_class_name") in NARROW_CLASSES else (1e-4, 0.02)
    ends = {
        end: read_number(config, end, beta, path)
        for end, beta in zip(("beta_start", "beta_end"), defaults, strict=True)
    }
    try:
        if betas is not None:
            schedule = schedules.from_betas(_read_betas(config, path))
        elif name == "linear":
            schedule = schedules.linear(train_steps=steps, **ends)
        elif name == "scaled_linear":
            schedule = schedules.scaled_linear(train_steps=steps, **ends)
        elif name == "sigmoid":
            schedule = schedules.sigmoid(train_steps=steps, **ends)
        elif name == "squaredcos_cap_v2":
            schedule = schedules.cosine(train_steps=steps)
        else:
            supported = "linear, scaled_linear, sigmoid and squaredcos_cap_v2"
            raise ValueError(f"'beta_schedule' is {format_value(name)}; supported are {supported}")
        rescales = config.get("rescale_betas_zero_snr") and _reads(config, "rescale_betas_zero_snr")
        return schedules.zero_terminal_snr(schedule) if rescales else schedule
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"'{path}' describes no schedule: {error}") from None


def _read_betas(config: Mapping[str, Any], path: Path) -> NDArray[np.float64]:
    """The β of `trained_betas`. Raises ``ValueError``."""
    betas = np.asarray(read_numbers(config, "trained_betas", None, path), np.float64)
    if betas.max() > 1:
        raise ValueError(f"'trained_betas' has {betas.max():g}; expected numbers from 0 to 1")
    return betas


def read_prediction_kind(config: Mapping[str, Any], path: Path) -> PredictionKind:
    """The kind of prediction, from `prediction_type`. Raises ``ValueError``."""
    return KINDS[read_choice(config, "prediction_type", "epsilon", path, tuple(KINDS))]


def read_sampler_settings(config: Mapping[str, Any], path: Path) -> SamplerSettings:
    """The offset, the last ᾱ and the spacing of a scheduler_config.json as its class takes them.

    Fields that the class ignores do not count. Raises ``ValueError``.
    """
    name = config.get("_class_name")
    defaults = CLASSES[name].fields if isinstance(name, str) and name in CLASSES else {}
    spacing = defaults.get("timestep_spacing", "linspace" if name in LINSPACE_CLASSES else "leading")
    if name != "DPMSolverSinglestepScheduler":
        spacing = config.get("timestep_spacing", spacing)
    if spacing not in SPACINGS:
        raise ValueError(
            f"'{path}': 'timestep_spacing' is {format_value(spacing)}; supported are {', '.join(SPACINGS)}"
        )
    offset = read_integer(config, "steps_offset", 0, path, low=0)
    ends_first = name in FIRST_CLASSES
    if not ends_first and _reads(config, "set_alpha_to_one"):
        ends_first = not config.get("set_alpha_to_one", defaults.get("set_alpha_to_one", True))
    elif not ends_first and _reads(config, "final_sigmas_type"):
        ends_first = config.get("final_sigmas_type") == "sigma_min"
    return SamplerSettings(offset if _reads(config, "steps_offset") else 0, "first" if ends_first else "one", spacing)


def _reads(config: Mapping[str, Any], field: str) -> bool:
    """Whether the class of a config reads a field; so does a class that is not known."""
    name = config.get("_class_name")
    return not isinstance(name, str) or name not in CLASSES or field in CLASSES[name].fields

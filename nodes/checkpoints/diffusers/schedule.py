"""Reads scheduler_config.json of diffusers: the noise schedule, the kind of prediction, and settings of the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import PredictionKind, Schedule

KINDS: dict[str, PredictionKind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SPACINGS = ("leading", "trailing", "linspace")
CONFIG = "scheduler_config.json"


class SamplerSettings(NamedTuple):
    """Settings of a checkpoint's sampler, as our sampler nodes take them: offset, final and spacing."""

    offset: int
    final: Literal["one", "first"]
    spacing: Literal["leading", "trailing", "linspace"]


def read_scheduler(folder: Path) -> tuple[Schedule, PredictionKind]:
    """Read the schedule of a scheduler folder, and the kind of prediction that it expects. Raises ``ValueError``."""
    path = folder / CONFIG
    config = read_json(path)
    return build_noise_schedule(config, path), read_prediction_kind(config, path)


def build_noise_schedule(config: Mapping[str, Any], path: Path) -> Schedule:
    """Build the schedule of a scheduler_config.json. Raises ``ValueError`` for one without β, such as a flow's."""
    name = config.get("beta_schedule")
    betas = config.get("trained_betas")
    if name is None and betas is None:
        raise ValueError(
            f"'{path}' gives no 'beta_schedule': {config.get('_class_name', 'it')} is not for a variance-preserving "
            "diffusion, which is what is supported"
        )
    steps = int(config.get("num_train_timesteps", 1000))
    ends = {"beta_start": float(config.get("beta_start", 1e-4)), "beta_end": float(config.get("beta_end", 0.02))}
    try:
        if betas is not None:
            schedule = schedules.from_betas(np.asarray(betas, dtype=np.float64))
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
            raise ValueError(f"'beta_schedule' is {name!r}; supported are {supported}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' describes no schedule: {error}") from None
    return schedules.zero_terminal_snr(schedule) if config.get("rescale_betas_zero_snr") else schedule


def read_prediction_kind(config: Mapping[str, Any], path: Path) -> PredictionKind:
    """The kind of prediction, from `prediction_type`. Raises ``ValueError``."""
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in KINDS:
        raise ValueError(f"'{path}': 'prediction_type' is {prediction_type!r}; supported are {', '.join(KINDS)}")
    return KINDS[prediction_type]


def read_sampler_settings(config: Mapping[str, Any], path: Path) -> SamplerSettings:
    """The offset, the last ᾱ and the spacing of a scheduler_config.json. Raises ``ValueError``."""
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in SPACINGS:
        raise ValueError(f"'{path}': 'timestep_spacing' is {spacing!r}; supported are {', '.join(SPACINGS)}")
    final: Literal["one", "first"] = "one" if config.get("set_alpha_to_one", True) else "first"
    return SamplerSettings(int(config.get("steps_offset", 0)), final, spacing)

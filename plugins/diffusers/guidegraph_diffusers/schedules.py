"""Noise schedules of diffusers' schedulers, in float64: discrete β schedules, and flow matching with its shift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guidegraph import Sample, Schedule, current_device, node
from guidegraph_diffusers.folders import SCHEDULER_CONFIG, find_part_folder, import_diffusers, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PARTS = ("scheduler",)
PATCH = 2  # of the latent, in the transformers whose schedule depends on the picture's size (SD3, Flux)


@node("diffusers.schedule", host=True)
def read_schedule(like: Sample | None = None, *, path: Path) -> Schedule:
    """The noise schedule of a pipeline's folder, or of a scheduler's own, from its scheduler_config.json.

    For β schedules (linear, scaled_linear, squaredcos_cap_v2, sigmoid, trained_betas; rescale_betas_zero_snr) t is the
    timestep. For flow matching, t = 0 … T − 1 stands for s = (t + 1)/T after the shift, α = (1 − s)/r and σ = s/r with
    r² = (1 − s)² + s². like: the noise or latent (B, C, h, w) to be sampled, needed if the shift depends on the size
    (`use_dynamic_shifting`).

    Raises an error for a scheduler without such a schedule.
    """
    import_diffusers()
    folder = find_part_folder(path, "auto", PARTS, SCHEDULER_CONFIG)
    import torch

    source = f"'{folder / SCHEDULER_CONFIG}'"
    alphas_bar = alphas_bar_of(complete_config(read_json(folder / SCHEDULER_CONFIG), source), like, source)
    # A pipeline's model was trained at all timesteps, including α = 0 if its schedule ends there.
    return Schedule(
        torch.from_numpy(alphas_bar).to(current_device()), trained_from=0.0, trained_to=len(alphas_bar) - 1.0
    )


def complete_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """A scheduler's configuration with the defaults of its class. Raises ``ValueError`` for an unknown class."""
    import inspect

    diffusers = import_diffusers()
    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise ValueError(f"{source} names no scheduler of diffusers: {config.get('_class_name')!r}")
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | config


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's samples are (1 − s) x0 + s ε."""
    return str(config.get("_class_name")).startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def alphas_bar_of(config: Mapping[str, Any], like: Sample | None, source: str) -> Array:
    """ᾱ (T), float64, decreasing."""
    if is_flow(config):
        s = apply_shift(
            np.arange(1, int(config["num_train_timesteps"]) + 1) / config["num_train_timesteps"], config, like
        )
        alphas_bar: Array = (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
        return alphas_bar
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ValueError(f"{source}, a {config.get('_class_name')}, has neither a β schedule nor flow matching")
    alphas_bar = np.cumprod(1 - _betas(config, source), dtype=np.float64)
    if config.get("rescale_betas_zero_snr"):  # Lin et al. 2023, algorithm 1
        root: Array = np.sqrt(alphas_bar)
        if root[0] <= root[-1]:
            raise ValueError(
                f"{source} has 'rescale_betas_zero_snr', which takes noise that grows with t; found ᾱ from "
                f"{alphas_bar[0]:g} to {alphas_bar[-1]:g} in {len(alphas_bar)} steps: set it to false"
            )
        alphas_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alphas_bar


def _betas(config: Mapping[str, Any], source: str) -> Array:
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    T, name = int(config["num_train_timesteps"]), config["beta_schedule"]
    low, high = float(config["beta_start"]), float(config["beta_end"])
    if name == "linear":
        return np.linspace(low, high, T)
    if name == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, T) ** 2
    if name == "sigmoid":
        return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, T)))
    if name == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17
        t = np.arange(T + 1) / T
        alphas_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.asarray(np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], 0.999))
    raise ValueError(
        f"{source} has the beta_schedule {name!r}; known are linear, scaled_linear, squaredcos_cap_v2 and sigmoid"
    )


def apply_shift(s: Array, config: Mapping[str, Any], like: Sample | None) -> Array:
    """s after the shift (Esser et al. 2024, eq. 23): a s / (1 + (a − 1) s), where a may depend on the size."""
    if config.get("use_dynamic_shifting"):
        mu = compute_size_shift(config, like)
        a = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    else:
        a = float(config.get("shift", config.get("flow_shift")) or 1.0)
    result: Array = a * s / (1 + (a - 1) * s)
    return result


def compute_size_shift(config: Mapping[str, Any], like: Sample | None) -> float:
    """μ, linear in the number of the transformer's tokens. Raises ``ValueError`` if the size is not known."""
    if like is None:
        raise ValueError("this scheduler's shift depends on the picture's size: wire the noise to port 'like'")
    tokens = (like.shape[2] // PATCH) * (like.shape[3] // PATCH)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(low + (high - low) * (tokens - few) / (many - few))

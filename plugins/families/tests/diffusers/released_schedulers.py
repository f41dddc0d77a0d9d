"""The scheduler_config.json of released models: the fields that they carry, those that their class ignores included."""

from __future__ import annotations

import math
from typing import Any

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
PIXELS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
STABLE = {"trained_betas": None, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | LATENT

VARIANCE_PRESERVING: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1.5": STABLE | {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "Stable Diffusion 2.1 base": STABLE
    | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "prediction_type": "epsilon"},
    "Stable Diffusion 2.1": STABLE
    | {"_class_name": "DDIMScheduler", "skip_prk_steps": True, "prediction_type": "v_prediction"},
    "SDXL": STABLE
    | {"_class_name": "EulerDiscreteScheduler", "skip_prk_steps": True, "prediction_type": "epsilon"}
    | {"timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False}
    | {"sample_max_value": 1.0},
    "SDXL-Turbo": STABLE
    | {"_class_name": "EulerAncestralDiscreteScheduler", "skip_prk_steps": True, "prediction_type": "epsilon"}
    | {"timestep_spacing": "trailing", "interpolation_type": "linear", "use_karras_sigmas": False}
    | {"sample_max_value": 1.0},
    "SD-Turbo": LATENT
    | {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", "steps_offset": 1}
    | {"timestep_spacing": "trailing", "timestep_type": "discrete", "use_karras_sigmas": False}
    | {"set_alpha_to_one": False, "skip_prk_steps": True, "trained_betas": None, "clip_sample": False},
    "a fine-tune of SDXL with Karras' levels": STABLE
    | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "solver_order": 2}
    | {"solver_type": "midpoint", "lower_order_final": True, "thresholding": False, "final_sigmas_type": "zero"}
    | {"use_karras_sigmas": True, "timestep_spacing": "leading", "lambda_min_clipped": -math.inf},
    "a v model with zero terminal SNR": STABLE
    | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    | {"timestep_spacing": "trailing", "set_alpha_to_one": True},
    "PixArt-Σ": PIXELS
    | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "solver_order": 2}
    | {"solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False, "thresholding": False}
    | {"dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "lambda_min_clipped": -math.inf}
    | {"prediction_type": "epsilon", "steps_offset": 0, "timestep_spacing": "linspace", "trained_betas": None}
    | {"use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None},
    "DiT": PIXELS
    | {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "epsilon", "set_alpha_to_one": True}
    | {"steps_offset": 0, "trained_betas": None},
    "LCM Dreamshaper": LATENT
    | {"_class_name": "LCMScheduler", "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False}
    | {"dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "original_inference_steps": 50}
    | {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "set_alpha_to_one": True, "steps_offset": 0}
    | {"timestep_scaling": 10.0, "timestep_spacing": "leading", "trained_betas": None},
    "DeepFloyd IF": {"beta_schedule": "squaredcos_cap_v2", "beta_start": 0.0001, "beta_end": 0.02}
    | {"_class_name": "DDPMScheduler", "clip_sample": True, "clip_sample_range": 1.0, "num_train_timesteps": 1000}
    | {"dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5, "thresholding": True, "trained_betas": None}
    | {"prediction_type": "epsilon", "variance_type": "fixed_small"},
    "DDPM CIFAR-10": PIXELS
    | {"_class_name": "DDPMScheduler", "clip_sample": True, "variance_type": "fixed_small", "trained_betas": None},
}

FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "Stable Diffusion 3": (
        "StableDiffusion3Pipeline",
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
    ),
    "Flux.1 dev": (
        "FluxPipeline",
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
        | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
        | {"base_image_seq_len": 256, "max_image_seq_len": 4096},
    ),
    "Flux.1 schnell": (
        "FluxPipeline",
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
        | {"use_dynamic_shifting": False, "base_shift": 0.5, "max_shift": 1.15}
        | {"base_image_seq_len": 256, "max_image_seq_len": 4096},
    ),
    "Z-Image Turbo": (
        "ZImagePipeline",
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
        | {"use_dynamic_shifting": False},
    ),
}
"""The pipeline, which may give σ, and the config."""

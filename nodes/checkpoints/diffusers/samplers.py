"""The samplers of diffusers' scheduler classes: solver, grid, end and order as the class of a config chooses them.

A config carries fields of other classes, which its own ignores. `CLASSES` lists for each class the fields that it reads
with their defaults, and the functions that make levels and settings of them. A class or a setting that no sampler of
ours repeats is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.checkpoints.config_values import format_value, read_choice, read_flag, read_integer, read_number
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.samplers.ddim import distillation_timesteps
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.noise_levels import LANDING, Levels, NoiseSchedule, check_levels
from guidegraph_runtime.tables.rows import Level

Array: TypeAlias = NDArray[np.float64]
Sigmas: TypeAlias = Literal["", "karras", "exponential", "lu", "beta"]


class Recipe(NamedTuple):
    """A sampler of ours with the settings and levels of a config: N levels with calls, and the landing.

    ends: where each step ends, if that is not the next level; of ddim alone. no_start_in_the_middle: why the steps of
    the class cannot begin in the middle, if they cannot.
    """

    sampler: str
    settings: Mapping[str, Any]
    visited: Sequence[Level]
    ends: Sequence[Level] | None = None
    no_start_in_the_middle: str = ""


@dataclass(frozen=True)
class Config:
    """The fields that the class of a config reads, with its defaults, and the names for messages."""

    name: str
    path: Path
    fields: Mapping[str, Any]
    pipeline: str | None = None

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    def get(self, field: str, default: Any = None) -> Any:
        return self.fields.get(field, default)

    def refuse(self, field: str, advice: str) -> ValueError:
        value = format_value(self.fields[field])
        return ValueError(f"'{self.path}': {self.name} with '{field}' {value} has no counterpart here: {advice}")


SPACED = {"timestep_spacing": "linspace", "steps_offset": 0}
LEADING = {"timestep_spacing": "leading", "steps_offset": 0}
SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
CLIP = {"clip_sample": False, "clip_sample_range": 1.0}
CLIPPED = {"clip_sample": True, "clip_sample_range": 1.0}
THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
ON_FLOW = {"use_flow_sigmas": False, "use_dynamic_shifting": False}
ZERO_SNR = {"rescale_betas_zero_snr": False}
MULTISTEP = THRESHOLD | SIGMAS | ON_FLOW | {"solver_order": 2, "lower_order_final": True}
DISTILLED = ZERO_SNR | {"original_inference_steps": 50}
FLOW_MATCH = SIGMAS | {"use_dynamic_shifting": False, "shift_terminal": 0.0, "invert_sigmas": False}

WORDS: dict[str, tuple[str, ...]] = {
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
}
"""The values of fields that are words."""


# Grids: what each class makes of its fields, as levels with calls and the landing


def visit_ratio(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    """Classes that step in σ/α: times with fractions, σ/α linear between whole ones, respaced between their ends."""
    table = _ratios(config, noise)
    times = _space(config, len(table), steps, lands=False)
    if config.get("interpolation_type") == "log_linear":
        ratios = noise_levels.exponential(table[-1], table[0], np.linspace(0, 1, steps + 1))
        return [*_levels(times, ratios[:-1]), Level.at(0.0, float(ratios[-1]))]
    ratios = np.interp(times, np.arange(len(table)), table)
    if sigmas := _sigmas_kind(config):
        high, low = (config.get(f"sigma_{end}") or value for end, value in (("max", ratios[0]), ("min", ratios[-1])))
        ratios = _respace(sigmas, high, low, steps)
        times = _times_of(table, ratios)
        if config.name.startswith("KDPM2") and sigmas == "karras":
            times = np.round(times)
    last = table[0] if config.get("final_sigmas_type") == "sigma_min" else 0.0
    return [*_levels(times, ratios), Level.at(LANDING, last)]


def visit_lambda(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    """Classes that step in λ: whole times, one point more than steps; respaced over the whole schedule."""
    if config["use_flow_sigmas"]:
        return _visit_flow_sigmas(config, noise, steps)
    table = _ratios(config, noise)
    lowest = table[0]
    clipped = int((-np.log(table) < config.get("lambda_min_clipped", -math.inf)).sum())
    times = _space(config, len(table), steps, lands=True, clipped=clipped)
    ratios = np.interp(times, np.arange(len(table)), table)
    if sigmas := _sigmas_kind(config):
        ratios = _respace(sigmas, table[-1], table[0], steps)
        exact = _times_of(table, ratios)
        is_cosine = config.name == "DPMSolverMultistepScheduler" and config["beta_schedule"] == "squaredcos_cap_v2"
        rounds = sigmas in ("karras", "lu") and not is_cosine
        times = np.round(exact) if rounds else np.floor(exact)
        lowest = table[0] if config.name.startswith("DPMSolver") else ratios[-1]
    if config.get("final_sigmas_type", "sigma_min") == "zero":
        return [*_levels(times, ratios), Level.at(LANDING, 0.0)]
    return [*_levels(times, ratios), Level.at(0.0, float(lowest))]


def _visit_flow_sigmas(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    _require_form(config, noise, "flow")
    _require_shift(config, noise)
    low = 1 / noise.train_steps
    is_unipc = config.name == "UniPCMultistepScheduler"
    even = np.linspace(1.0, low, steps + 1) if is_unipc else 1 - np.linspace(low, 1, steps + 1)
    sigmas = noise.shift_sigma(even[:-1])
    if is_unipc and config["shift_terminal"]:
        sigmas = _stretch(sigmas, config["shift_terminal"])
    sigmas[0] = min(sigmas[0], 1 - 1e-6)
    times = np.floor(sigmas * noise.train_steps)
    end = config.get("final_sigmas_type", "sigma_min")
    if end == "sigma_min" and config.name.startswith("DPMSolver"):
        raise config.refuse("final_sigmas_type", "it ends at a σ of the other kind of schedule; set it to 'zero'")
    last = Level.at(LANDING, 0.0, "flow") if end == "zero" else _flow_level(0.0, sigmas[-1])
    return [*_flow_levels(times, sigmas), last]


def visit_subsequence(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    """Classes on a subsequence of the timesteps of training."""
    _require_form(config, noise, "variance_preserving")
    table = np.exp(noise.log_ratio)
    times = np.round(_space(config, len(table), steps, lands=False))
    first = config.get("set_alpha_to_one", True) is False
    return [*_levels(times, table[times.astype(int)]), Level.at(0.0, table[0]) if first else Level.at(LANDING, 0.0)]


def visit_distilled(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    """LCM, which ends at σ = 0, and TCD, which ends at ᾱ_0, at the timesteps of the distillation."""
    _require_form(config, noise, "variance_preserving")
    table = np.exp(noise.log_ratio)
    times = np.array(distillation_timesteps(len(table), config["original_inference_steps"], steps))
    last = Level.at(LANDING, 0.0) if config.name == "LCMScheduler" else Level.at(0.0, table[0])
    return [*_levels(times, table[times]), last]


FLOW_PIPELINES = ("Flux", "ZImage", "QwenImage")
"""Pipelines, by the beginning of their names, that give the scheduler σ evenly from 1 to 1/N."""
OWN_PIPELINES = ("StableDiffusion3",)
"""Pipelines that leave σ to the scheduler."""


def visit_flow(config: Config, noise: NoiseSchedule, steps: int) -> list[Level]:
    """Flow matching: σ of the pipeline, or evenly down to the shifted 1/T; shifted, stretched and respaced."""
    _require_form(config, noise, "flow")
    _require_shift(config, noise)
    if config.get("invert_sigmas"):
        raise config.refuse("invert_sigmas", "it goes from the data to the noise, as levels.reverse does")
    low = 1 / noise.train_steps
    if not config.get("use_dynamic_shifting"):
        low = float(noise.shift_sigma(np.array(low)))
    if config.name != "FlowMatchHeunDiscreteScheduler" and config.pipeline is not None:
        if config.pipeline.startswith(FLOW_PIPELINES):
            low = 1 / steps
        elif not config.pipeline.startswith(OWN_PIPELINES):
            raise ValueError(
                f"'{config.path}' belongs to a {config.pipeline}, and which σ that gives to its {config.name} is not "
                "known: use scheduler.euler with levels.flow (σ evenly from 1 to 1/N) or levels.flow_sd3"
            )
    sigmas = noise.shift_sigma(np.linspace(1.0, low, steps))
    if config.get("shift_terminal"):
        sigmas = _stretch(sigmas, config["shift_terminal"])
    if kind := _sigmas_kind(config):
        sigmas = _respace(kind, sigmas[0], sigmas[-1], steps)
    return [*_flow_levels(sigmas * noise.train_steps, sigmas), Level.at(LANDING, 0.0, "flow")]


def _ratios(config: Config, noise: NoiseSchedule) -> Array:
    """σ/α at the whole timesteps; where the SNR is 0 at the end, σ/α of diffusers' ᾱ = 2⁻²⁴."""
    _require_form(config, noise, "variance_preserving")
    table = np.exp(noise.log_ratio)
    if config.get("rescale_betas_zero_snr"):
        table[-1] = math.sqrt(2.0**24 - 1)
    return table


def _space(config: Config, train_steps: int, steps: int, lands: bool, clipped: int = 0) -> Array:
    """Timesteps in decreasing order by the fields `timestep_spacing` and `steps_offset`.

    lands: divide into one step more, whose end is the landing, and round. clipped: noisiest timesteps to leave out.
    """
    last, points = train_steps - clipped, steps + lands
    spacing, offset = config.get("timestep_spacing", "linspace"), config.get("steps_offset", 0)
    first = (steps - 1 + lands) * (last // points) + offset if spacing == "leading" else 0
    if points > last or first >= train_steps:
        raise SettingError(
            "steps",
            f"{steps} steps of '{config.path}' do not fit into {train_steps} timesteps: take fewer",
        )
    if spacing == "linspace":
        even = np.linspace(0, last - 1, points)[::-1][:steps]
        return np.round(even) if lands else even.astype(np.float32).astype(np.float64)
    if spacing == "leading":
        return first - np.arange(steps, dtype=np.float64) * (last // points)
    times = last - np.arange(steps) * (train_steps / steps)
    return np.round(times[times > 0]) - 1


def _sigmas_kind(config: Config) -> Sigmas:
    chosen: list[Sigmas] = [kind for kind in ("karras", "exponential", "beta") if config.get(f"use_{kind}_sigmas")]
    if config.get("use_lu_lambdas"):
        chosen.append("lu")
    if len(chosen) > 1:
        raise ValueError(f"'{config.path}' spaces σ in several ways, {' and '.join(chosen)}: leave one of them")
    return chosen[0] if chosen else ""


def _respace(kind: Sigmas, high: float, low: float, steps: int) -> Array:
    if kind == "beta":
        return noise_levels.beta_sigmas(high, low, steps, 0.6, 0.6)
    ramp = np.linspace(0, 1, steps)
    return (
        noise_levels.polynomial(high, low, ramp, 7.0) if kind == "karras" else noise_levels.exponential(high, low, ramp)
    )


def _times_of(table: Array, ratios: Array) -> Array:
    """Times by linear interpolation in log σ/α, clamped to the schedule."""
    return np.interp(np.log(ratios), np.log(table), np.arange(len(table)))


def _levels(times: Array, ratios: Array) -> list[Level]:
    return [Level.at(float(t), float(ratio)) for t, ratio in zip(times, ratios, strict=True)]


def _flow_levels(times: Array, sigmas: Array) -> list[Level]:
    return [_flow_level(t, sigma) for t, sigma in zip(times, sigmas, strict=True)]


def _flow_level(t: float, sigma: float) -> Level:
    return Level(float(np.float32(t)), 1 - float(sigma), float(sigma), "flow")


def _stretch(sigmas: Array, terminal: float) -> Array:
    stretched: Array = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    return stretched


def _require_form(config: Config, noise: NoiseSchedule, form: str) -> None:
    if noise.form != form:
        kind = {"flow": "a flow", "variance_preserving": "a variance-preserving one"}
        raise ValueError(
            f"schedule: {config.name} of '{config.path}' samples on {kind[form]}, and this schedule is "
            f"{kind[noise.form]}: wire the schedule of the checkpoint"
        )


def _require_shift(config: Config, noise: NoiseSchedule) -> None:
    if config.get("use_dynamic_shifting") and noise.shift == 1:
        raise ValueError(
            f"schedule: the levels of '{config.path}' shift with the size of the picture: wire schedule.flow_shift, "
            "with the settings of checkpoint.flow_shift"
        )


# Solvers: the name of our sampler and its settings


def _clipping(config: Config) -> dict[str, Any]:
    """Thresholding takes the place of clipping where a class has both."""
    if config.get("thresholding"):
        return {
            "threshold": config["dynamic_thresholding_ratio"],
            "threshold_max": max(config["sample_max_value"], 1.0),
        }
    return {"clip": config["clip_sample_range"]} if config.get("clip_sample") else {}


def solve_ddim(config: Config) -> tuple[str, dict[str, Any]]:
    return "ddim", {"rederive_eps": False, **_clipping(config)}


def solve_ddpm(config: Config) -> tuple[str, dict[str, Any]]:
    variances = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "learned_range": "learned"}
    if config["timestep_spacing"] != "trailing" and config["steps_offset"] == 0:
        variances["fixed_large"] = "fixed_large"  # with a last timestep above 0, theirs adds noise after the last step
    if config["variance_type"] not in variances:
        raise config.refuse("variance_type", "use scheduler.ddpm, and set its variance")
    return "ddpm", {"variance": variances[config["variance_type"]], **_clipping(config)}


def solve_pndm(config: Config) -> tuple[str, dict[str, Any]]:
    combine = "v" if config["prediction_type"] == "v_prediction" else "eps"
    return "pndm", {"warmup": "plms" if config["skip_prk_steps"] else "runge_kutta", "combine": combine}


def solve_dpm_multistep(config: Config) -> tuple[str, dict[str, Any]]:
    if config["algorithm_type"] in ("dpmsolver", "sde-dpmsolver"):
        raise config.refuse(
            "algorithm_type", "use scheduler.dpmpp_2m, or dpmpp_2m_sde with noise, which is DPM-Solver++"
        )
    solver_type = "heun" if config["solver_type"] == "heun" else "midpoint"
    eta = 1.0 if config["algorithm_type"] == "sde-dpmsolver++" else 0.0
    more = {name: config[name] for name in ("lower_order_final", "euler_at_final")} | _clipping(config)
    if config["solver_order"] == 1:
        return "ddim", {"eta": eta, **_clipping(config)}
    if config["solver_order"] == 2:
        return ("dpmpp_2m_sde" if eta else "dpmpp_2m"), {"solver_type": solver_type, **more}
    if config["solver_order"] == 3 and not eta:
        return "dpmpp_3m_sde", {"eta": eta, "solver_type": solver_type, **more}
    advice = "use scheduler.dpmpp_3m_sde; theirs has another sign in the quadratic term" if eta else "use order 2 or 3"
    raise config.refuse("solver_order", advice)


def solve_dpm_singlestep(config: Config) -> tuple[str, dict[str, Any]]:
    if config["algorithm_type"] not in ("dpmsolver++", "deis"):
        raise config.refuse("algorithm_type", "use scheduler.dpmpp_2s, which is DPM-Solver++")
    if config["solver_order"] == 1:
        return "ddim", _clipping(config)
    if config["solver_order"] == 2:
        solver_type = "heun" if config["solver_type"] == "heun" else "midpoint"
        return "dpmpp_2s", {"solver_type": solver_type, **_clipping(config)}
    raise config.refuse("solver_order", "use scheduler.dpmpp_2s, of order 2, or scheduler.dpmpp_3m_sde with eta 0")


def solve_deis(config: Config) -> tuple[str, dict[str, Any]]:
    if config["solver_order"] not in (1, 2, 3):
        raise config.refuse("solver_order", "use scheduler.deis, of order 3 at most")
    return "deis", {
        "order": config["solver_order"],
        "lower_order_final": config["lower_order_final"],
        **_clipping(config),
    }


def solve_unipc(config: Config) -> tuple[str, dict[str, Any]]:
    if config["solver_order"] not in (1, 2, 3):
        raise config.refuse("solver_order", "use scheduler.unipc, of order 3 at most")
    if not config["predict_x0"]:
        raise config.refuse("predict_x0", "use scheduler.unipc, which is UniPC of x0")
    if config["disable_corrector"]:
        raise config.refuse("disable_corrector", "use scheduler.unipc, which corrects each step, or scheduler.dpmpp_2m")
    variant = config["solver_type"] if config["solver_type"] in ("bh1", "bh2") else "bh2"
    settings = {"order": config["solver_order"], "variant": variant, "lower_order_final": config["lower_order_final"]}
    return "unipc", settings | _clipping(config)


def solve_lcm(config: Config) -> tuple[str, dict[str, Any]]:
    return "lcm", {"timestep_scaling": config["timestep_scaling"], **_clipping(config)}


def solve_tcd(config: Config) -> tuple[str, dict[str, Any]]:
    return "tcd", {}


def solve_euler(config: Config) -> tuple[str, dict[str, Any]]:
    if config["timestep_type"] == "continuous" and config["prediction_type"] == "v_prediction":
        raise config.refuse("timestep_type", "use schedule.edm with denoiser.edm and scheduler.euler")
    return "euler", {}


def solve_flow_euler(config: Config) -> tuple[str, dict[str, Any]]:
    return ("euler_stochastic" if config["stochastic_sampling"] else "euler"), {}


def solve_as(name: str) -> Callable[[Config], tuple[str, dict[str, Any]]]:
    """A sampler of ours with the clipping of the config, if it has one."""
    return lambda config: (name, _clipping(config))


@dataclass(frozen=True)
class SchedulerClass:
    """A scheduler class of diffusers: its levels, its solver, and the fields that it reads with their defaults."""

    visit: Callable[[Config, NoiseSchedule, int], list[Level]]
    solve: Callable[[Config], tuple[str, dict[str, Any]]]
    fields: Mapping[str, Any]
    no_start_in_the_middle: str = ""


_DDIM = SchedulerClass(
    visit_subsequence, solve_ddim, LEADING | CLIPPED | THRESHOLD | ZERO_SNR | {"set_alpha_to_one": True}
)
_DDPM = SchedulerClass(
    visit_subsequence, solve_ddpm, LEADING | CLIPPED | THRESHOLD | ZERO_SNR | {"variance_type": "fixed_small"}
)

CLASSES: Mapping[str, SchedulerClass] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": SchedulerClass(
        visit_subsequence,
        solve_pndm,
        LEADING | {"skip_prk_steps": False, "set_alpha_to_one": False, "prediction_type": "epsilon"},
        "it repeats a timestep that is then not in its list: use scheduler.pndm or scheduler.ddim",
    ),
    "LMSDiscreteScheduler": SchedulerClass(
        visit_ratio,
        solve_as("lms"),
        SPACED | SIGMAS,
        "it weighs the first derivative as one of four: use scheduler.lms, which begins with Euler's step",
    ),
    "EulerDiscreteScheduler": SchedulerClass(
        visit_ratio,
        solve_euler,
        SPACED
        | SIGMAS
        | ZERO_SNR
        | {"final_sigmas_type": "zero", "interpolation_type": "linear", "timestep_type": "discrete"}
        | {"prediction_type": "epsilon", "sigma_min": 0.0, "sigma_max": 0.0},
    ),
    "EulerAncestralDiscreteScheduler": SchedulerClass(visit_ratio, solve_as("euler_ancestral"), SPACED | ZERO_SNR),
    "HeunDiscreteScheduler": SchedulerClass(visit_ratio, solve_as("heun"), SPACED | SIGMAS | CLIP),
    "KDPM2DiscreteScheduler": SchedulerClass(visit_ratio, solve_as("dpm2"), SPACED | SIGMAS),
    "KDPM2AncestralDiscreteScheduler": SchedulerClass(visit_ratio, solve_as("dpm2_ancestral"), SPACED | SIGMAS),
    "DPMSolverSDEScheduler": SchedulerClass(visit_ratio, solve_as("dpmpp_sde"), SPACED | SIGMAS),
    "DPMSolverMultistepScheduler": SchedulerClass(
        visit_lambda,
        solve_dpm_multistep,
        SPACED
        | MULTISTEP
        | ZERO_SNR
        | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False}
        | {"use_lu_lambdas": False, "final_sigmas_type": "zero", "lambda_min_clipped": -math.inf, "beta_schedule": ""},
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        visit_lambda,
        solve_dpm_singlestep,
        MULTISTEP
        | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": False}
        | {"final_sigmas_type": "zero", "lambda_min_clipped": -math.inf},
    ),
    "DEISMultistepScheduler": SchedulerClass(visit_lambda, solve_deis, SPACED | MULTISTEP),
    "UniPCMultistepScheduler": SchedulerClass(
        visit_lambda,
        solve_unipc,
        SPACED
        | MULTISTEP
        | ZERO_SNR
        | {"solver_type": "bh2", "predict_x0": True, "disable_corrector": (), "final_sigmas_type": "zero"}
        | {"shift_terminal": 0.0, "solver_p": ()},
    ),
    "LCMScheduler": SchedulerClass(
        visit_distilled, solve_lcm, DISTILLED | CLIP | THRESHOLD | {"timestep_scaling": 10.0}
    ),
    "TCDScheduler": SchedulerClass(visit_distilled, solve_tcd, DISTILLED),
    "FlowMatchEulerDiscreteScheduler": SchedulerClass(
        visit_flow, solve_flow_euler, FLOW_MATCH | {"stochastic_sampling": False}
    ),
    "FlowMatchHeunDiscreteScheduler": SchedulerClass(visit_flow, solve_as("heun_flow"), {}),
    "FlowMatchLCMScheduler": SchedulerClass(
        visit_flow, solve_as("euler_stochastic"), FLOW_MATCH | {"scale_factors": ()}
    ),
}
"""The classes of diffusers 0.42 that a sampler of ours repeats."""

EDM = "an EDM model's; use schedule.edm with denoiser.edm and scheduler.{} with sigmas karras"
REFUSED = {
    "SASolverScheduler": "SA-Solver, which no sampler here repeats; use scheduler.dpmpp_2m_sde or scheduler.unipc",
    "EDMEulerScheduler": EDM.format("euler"),
    "EDMDPMSolverMultistepScheduler": EDM.format("dpmpp_2m"),
    "CosineDPMSolverMultistepScheduler": EDM.format("dpmpp_2m_sde"),
    "IPNDMScheduler": "PLMS on a schedule of its own; use scheduler.pndm",
    "DDIMInverseScheduler": "for inversion; use scheduler.ddim with levels.reverse",
    "DPMSolverMultistepInverseScheduler": "for inversion; use scheduler.dpmpp_2m with levels.reverse",
    "CMStochasticIterativeScheduler": "a consistency model's of EDM; use schedule.edm with scheduler.euler_stochastic",
}
"""Other classes, and what to use instead."""


PATCHED = frozenset(
    (
        *("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionSafePipeline"),
        *("OnnxStableDiffusionPipeline", "StableDiffusionOnnxPipeline", "AltDiffusionPipeline"),
        *("StableDiffusionPAGPipeline", "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline"),
    )
)
"""Pipelines of diffusers that set `steps_offset` to 1 and `clip_sample` to false, whatever their folder says."""


def read_recipe(folder: Path, noise: NoiseSchedule, steps: int) -> Recipe:
    """The sampler of a diffusers folder on a schedule: of its scheduler/scheduler_config.json, for its pipeline.

    Raises one ``ValueError`` that names the file for a class or a setting without a counterpart, with the one to use
    instead, for a schedule of another form, for steps that do not fit, and for a folder without a scheduler.
    """
    path, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    if not folder.is_dir():
        raise ValueError(
            f"'{folder}' is not a folder, and only a diffusers folder has a scheduler: wire checkpoint.sampling into "
            "scheduler.ddim or another"
        )
    pipeline = read_json(index).get("_class_name") if index.is_file() else None
    read = read_fields(read_json(path), path, pipeline if isinstance(pipeline, str) else None)
    row = CLASSES[read.name]
    sampler, settings = row.solve(read)
    visited = row.visit(read, noise, steps)
    ends = _ends_of_ddim(visited, noise, steps) if row.visit is visit_subsequence and sampler != "ddpm" else None
    _check_steps(read, sampler, ends is not None, steps, noise.train_steps)
    check_levels(Levels.of(visited))
    try:
        values = OPERATIONS[f"scheduler.{sampler}"].check_settings(settings)
    except ValueError as error:
        raise ValueError(f"'{path}' sets what scheduler.{sampler} does not take: {error}") from None
    return Recipe(sampler, values, visited, ends, row.no_start_in_the_middle)


def _check_steps(config: Config, sampler: str, passes: bool, steps: int, train_steps: int) -> None:
    """Raise ``SettingError`` for numbers of steps with which a class does what no sampler here repeats.

    passes: whether its steps end past the timesteps that it visits.
    """
    stride = train_steps // steps
    if sampler == "pndm" and passes:
        raise SettingError(
            "steps",
            f"steps: PNDMScheduler of '{config.path}' goes {stride} timesteps a step, past those that it visits with "
            f"'timestep_spacing' '{config['timestep_spacing']}': for trailing, choose a number that divides "
            f"{train_steps}, or use scheduler.pndm",
        )
    if sampler == "pndm" and not config["skip_prk_steps"] and stride % 2:
        raise SettingError(
            "steps",
            f"steps: PNDMScheduler of '{config.path}' calls the network between timesteps, {stride} apart: "
            "choose a number for which that is even, or use scheduler.pndm",
        )
    ends_lower = config.get("final_sigmas_type") == "sigma_min" and config.get("lower_order_final")
    if sampler == "dpmpp_2s" and ends_lower and steps % 2 == 0:
        raise SettingError(
            "steps",
            f"steps: DPMSolverSinglestepScheduler of '{config.path}' ends with two steps of first order: choose an odd "
            "number",
        )


def _ends_of_ddim(visited: Sequence[Level], noise: NoiseSchedule, steps: int) -> list[Level] | None:
    """diffusers' DDIM and PNDM step to t − ⌊T/N⌋, which is the next timestep for `leading`, or if N divides T."""
    times = [level.t - noise.train_steps // steps for level in visited[:-1]]
    if times[:-1] == [level.t for level in visited[1:-1]] and times[-1] < 0:
        return None
    table = np.exp(noise.log_ratio)
    return [Level.at(t, float(table[int(t)])) if t >= 0 else visited[-1] for t in times]


def read_fields(config: Mapping[str, Any], path: Path, pipeline: str | None = None) -> Config:
    """The fields that the class of a config reads. Raises ``ValueError`` for a class or a value that is not known."""
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        supported = f"supported are {', '.join(CLASSES)}"
        if isinstance(name, str) and name in REFUSED:
            raise ValueError(f"'{path}': {name} is {REFUSED[name]}")
        naming = "names no scheduler class" if name is None else f"names the scheduler class {format_value(name)}"
        raise ValueError(f"'{path}' {naming}; {supported}: use a scheduler.* node and set what its class does")
    present = {field: value for field, value in config.items() if value is not None}
    if pipeline in PATCHED:
        present |= {"steps_offset": 1, "clip_sample": False}
    defaults = CLASSES[name].fields
    values = {field: _read_field(present, field, default, path) for field, default in defaults.items()}
    read = Config(name, path, values, pipeline)
    for field, advice in (("solver_p", "use scheduler.unipc"), ("scale_factors", "use scheduler.euler_stochastic")):
        if values.get(field):
            raise read.refuse(field, advice)
    return read


def _read_field(config: Mapping[str, Any], field: str, default: Any, path: Path) -> Any:
    if field == "lambda_min_clipped":
        value = config.get(field, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            raise ValueError(f"'{path}': '{field}' is {format_value(value)}; expected a number")
        return float(value)
    if field not in config:
        return default
    if isinstance(default, bool):
        return read_flag(config, field, default, path)
    if isinstance(default, int):
        return read_integer(config, field, default, path, low=0 if field == "steps_offset" else 1)
    if isinstance(default, float):
        return read_number(config, field, default, path) if config[field] else 0.0
    if isinstance(default, str):
        return read_choice(config, field, default, path, WORDS[field]) if field in WORDS else str(config[field])
    return config[field]

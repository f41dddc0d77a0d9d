"""The full loops that diffusers' scheduler tests assert (tests/schedulers of diffusers 0.42.1), as data.

Each of those tests runs ten steps or so of a scheduler with the model x·t/(t + 1) from a fixed start and asserts the
sum and the mean of |x|. A case says which tests, which sampler and settings of ours mean the same, and the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Grid: TypeAlias = Literal["settings", "linear sigmas", "karras", "lu", "leading"]


@dataclass(frozen=True)
class Betas:
    """A diffusers schedule: train_steps β from start to end, evenly, or their roots (scaled)."""

    train_steps: int = 1000
    start: float = 0.0001
    end: float = 0.02
    scaled: bool = False


LINEAR = Betas()
LONG = Betas(train_steps=1100)
STEEP = Betas(start=0.01)
LATENT = Betas(start=0.00085, end=0.012, scaled=True)


@dataclass(frozen=True)
class Loop:
    """One loop: the tests that assert it ("file: test, …"), our sampler and its settings, and the expected numbers.

    grid: the source of the levels: the sampler's settings, or a levels node that starts with almost no signal, as
    diffusers does. skipped: steps left out before the start. noised: the start is a sample with
    noise of that level. in_ratio: diffusers' state is x/α, and its tests hand the scaled model input to the step.
    edm: the model is F of an EDM model, of its c_noise as t; the tests start from √(σ_max² + 1) times theirs and scale
    F's input by c_in ("scaled"), or do neither ("unscaled").
    expected_sum: None if the tests assert only the mean. differs: the reason if our result differs.
    """

    tests: str
    sampler: str
    expected_sum: float | None
    expected_mean: float
    settings: dict[str, Any] = field(default_factory=dict)
    kind: Literal["eps", "v"] = "eps"
    betas: Betas = LINEAR
    steps: int = 10
    skipped: int = 0
    noised: bool = False
    grid: Grid = "settings"
    in_ratio: bool = False
    edm: Literal["", "scaled", "unscaled"] = ""
    one_dimensional: bool = False
    sum_tolerance: float = 1e-2
    mean_tolerance: float = 1e-3
    differs: str = ""

    def __str__(self) -> str:
        return self.tests.split(",")[0]

    @property
    def count(self) -> int:
        """The number of diffusers' tests that assert it."""
        return len(self.tests.split(","))


def of_edm_2m(test: str, total: float | None, mean: float, **more: Any) -> Loop:
    """EDMDPMSolverMultistepScheduler as its tests set it: it ends at σ_min."""
    return Loop(f"edm_dpm_multi: {test}", "dpmpp_2m", total, mean, edm="unscaled", **{"settings": EDM_2M, **more})


def of_sigmas(tests: str, sampler: str, total: float, mean: float, **more: Any) -> Loop:
    """A loop whose state is x/α, at the σ that diffusers interpolates linearly between the schedule's."""
    return Loop(tests, sampler, total, mean, betas=LONG, in_ratio=True, **{"grid": "linear sigmas", **more})


NOISED = {"skipped": 8, "noised": True}
DDIM = {"clip": True, "rederive_eps": False}
FIRST = {"final": "first"}
LAST_AS_ANY = {"final": "first", "lower_order_final": False}
KARRAS = {"sigmas": "karras"}
EDM_2M = KARRAS | LAST_AS_ANY
THRESHOLD = {"threshold": 0.87, "threshold_max": 0.5}
PRK = {"warmup": "runge_kutta", "final": "first"}

LMS_BUG = (
    "diffusers weighs the first derivative after a start in the middle with the coefficients of an order-4 step, and "
    "drops the other three; ours starts with Euler's step, as k-diffusion does on a part of the levels"
)
DDPM_ROUNDING = (
    "diffusers' float32 alone: it computes β = 1 − ᾱ₁/ᾱ₀ = 1.2e-4 from a quotient rounded to 6e-8; in float64 it gives "
    "387.9676 too"
)

LOOPS = [
    Loop("ddim: no_noise, ddim_parallel: no_noise", "ddim", 172.0067, 0.223967, DDIM),
    Loop("ddim: v_prediction, ddim_parallel: v_prediction", "ddim", 52.5302, 0.0684, DDIM, kind="v"),
    Loop("ddim: set_alpha_to_one, ddim_parallel: set_alpha_to_one", "ddim", 149.8295, 0.1951, DDIM, betas=STEEP),
    Loop(
        "ddim: no_set_alpha_to_one, ddim_parallel: no_set_alpha_to_one",
        "ddim",
        149.0784,
        0.1941,
        DDIM | FIRST,
        betas=STEEP,
    ),
    Loop("ddim: with_noise, ddim_parallel: with_noise", "ddim", 354.5418, 0.4616, DDIM, **NOISED),
    Loop("ddpm: no_noise, ddpm_parallel: no_noise", "ddpm", 258.9606, 0.3372, {"clip": True}, steps=1000),
    Loop(
        "ddpm: v_prediction, ddpm_parallel: v_prediction",
        "ddpm",
        202.0296,
        0.2631,
        {"clip": True},
        kind="v",
        steps=1000,
    ),
    Loop(
        "ddpm: with_noise, ddpm_parallel: with_noise",
        "ddpm",
        387.9466,
        0.5051,
        {"clip": True},
        steps=1000,
        skipped=998,
        noised=True,
        differs=DDPM_ROUNDING,
    ),
    of_sigmas("euler: no_noise, euler: device", "euler", 10.0807, 0.0131),
    of_sigmas("euler: v_prediction", "euler", 0.0002, 2.2676e-06, kind="v"),
    of_sigmas("euler: karras", "euler", 124.52299499511719, 0.16213932633399963, grid="karras"),
    of_sigmas("euler: with_noise", "euler", 57062.9297, 74.3007, **NOISED),
    of_sigmas("euler_ancestral: no_noise, euler_ancestral: device", "euler_ancestral", 152.3192, 0.1983),
    of_sigmas("euler_ancestral: v_prediction", "euler_ancestral", 108.4439, 0.1412, kind="v"),
    of_sigmas("euler_ancestral: with_noise", "euler_ancestral", 56163.0508, 73.1290, **NOISED),
    of_sigmas("heun: no_noise, heun: device", "heun", 0.1233, 0.0002),
    of_sigmas("heun: v_prediction", "heun", 4.6934e-07, 6.1112e-10, kind="v"),
    of_sigmas("heun: karras", "heun", 0.00015, 1.9869554535034695e-07, grid="karras", mean_tolerance=1e-2),
    of_sigmas("heun: with_noise", "heun", 75074.8906, 97.7538, **NOISED),
    of_sigmas("kdpm2_discrete: v_prediction", "dpm2", 4.6934e-07, 6.1112e-10, kind="v"),
    of_sigmas("kdpm2_discrete: no_noise, kdpm2_discrete: device", "dpm2", 20.4125, 0.0266),
    of_sigmas("kdpm2_discrete: with_noise", "dpm2", 70408.4062, 91.6776, **NOISED),
    of_sigmas("kdpm2_ancestral: no_noise, kdpm2_ancestral: device", "dpm2_ancestral", 13979.9433, 18.2030),
    of_sigmas("kdpm2_ancestral: v_prediction", "dpm2_ancestral", 331.8133, 0.4320, kind="v"),
    of_sigmas("kdpm2_ancestral: with_noise", "dpm2_ancestral", 93087.3437, 121.2074, mean_tolerance=5e-3, **NOISED),
    of_sigmas("lms: no_noise, lms: device", "lms", 1006.388, 1.31),
    of_sigmas("lms: v_prediction", "lms", 0.0017, 2.2676e-06, kind="v"),
    of_sigmas("lms: karras", "lms", 3812.9927, 4.9648, grid="karras", sum_tolerance=2e-2),
    of_sigmas("lms: with_noise", "lms", 27663.6895, 36.0204, differs=LMS_BUG, **NOISED),
    Loop("pndm: no_noise", "pndm", 198.1318, 0.2580, PRK),
    Loop("pndm: v_prediction", "pndm", 67.3986, 0.0878, PRK | {"combine": "v"}, kind="v"),
    Loop("pndm: set_alpha_to_one", "pndm", 230.0399, 0.2995, PRK | {"final": "one"}, betas=STEEP, grid="leading"),
    Loop("pndm: no_set_alpha_to_one", "pndm", 186.9482, 0.2434, PRK, betas=STEEP, grid="leading"),
    Loop("dpm_multi: no_noise, dpm_multi: switch", "dpmpp_2m", None, 0.3301, LAST_AS_ANY),
    Loop("dpm_multi: with_noise", "dpmpp_2m", 318.4111, 0.4146, LAST_AS_ANY, skipped=5, noised=True),
    Loop("dpm_multi: no_noise_thres", "dpmpp_2m", None, 1.1364, LAST_AS_ANY | THRESHOLD),
    Loop("dpm_multi: v_prediction", "dpmpp_2m", None, 0.2251, LAST_AS_ANY, kind="v"),
    Loop("dpm_multi: karras_and_v_prediction", "dpmpp_2m", None, 0.2096, LAST_AS_ANY | KARRAS, kind="v"),
    Loop("dpm_multi: lu_and_v_prediction", "dpmpp_2m", None, 0.1554, LAST_AS_ANY, kind="v", grid="lu"),
    Loop("dpm_single: no_noise, dpm_single: switch", "dpmpp_2s", None, 0.2791, FIRST),
    Loop("dpm_single: uneven", "dpmpp_2s", None, 0.2574, FIRST, steps=50, skipped=3),
    Loop("dpm_single: karras", "dpmpp_2s", None, 0.2248, FIRST | KARRAS),
    Loop("dpm_single: v_prediction", "dpmpp_2s", None, 0.1453, FIRST, kind="v"),
    Loop("dpm_single: karras_and_v_prediction", "dpmpp_2s", None, 0.0649, FIRST | KARRAS, kind="v"),
    Loop("dpm_single: with_noise", "dpmpp_2s", 269.2187, 0.3505, FIRST, skipped=5, noised=True),
    Loop("deis: no_noise, deis: switch", "deis", None, 0.23916, FIRST | {"order": 2}),
    Loop("deis: v_prediction", "deis", None, 0.091, FIRST | {"order": 2}, kind="v"),
    Loop("deis: with_noise", "deis", 315.3016, 0.41054, FIRST | {"order": 2}, **NOISED),
    Loop("unipc: no_noise, unipc: switch", "unipc", None, 0.2464, FIRST),
    Loop("unipc: karras", "unipc", None, 0.2925, FIRST | KARRAS),
    Loop("unipc: v_prediction", "unipc", None, 0.1014, FIRST, kind="v"),
    Loop("unipc: karras_and_v_prediction", "unipc", None, 0.1966, FIRST | KARRAS, kind="v"),
    Loop("unipc: with_noise", "unipc", 315.5757, 0.4109, FIRST, **NOISED),
    Loop("unipc 1d: no_noise, unipc 1d: switch", "unipc", None, 0.2441, FIRST, one_dimensional=True),
    Loop("unipc 1d: karras", "unipc", None, 0.2898, FIRST | KARRAS, one_dimensional=True),
    Loop("unipc 1d: v_prediction", "unipc", None, 0.1014, FIRST, kind="v", one_dimensional=True),
    Loop("unipc 1d: karras_and_v_prediction", "unipc", None, 0.1944, FIRST | KARRAS, kind="v", one_dimensional=True),
    Loop("unipc 1d: with_noise", "unipc", 39.0870, 0.4072, FIRST, one_dimensional=True, **NOISED),
    Loop("lcm: onestep", "lcm", 18.7097, 0.0244, betas=LATENT, steps=1, sum_tolerance=1e-3),
    Loop("lcm: multistep", "lcm", 197.7616, 0.2575, betas=LATENT, sum_tolerance=1e-3),
    Loop("tcd: onestep_deter", "tcd", 29.8715, 0.0389, {"eta": 0.0}, betas=LATENT, steps=1, sum_tolerance=1e-3),
    Loop("tcd: multistep_deter", "tcd", 181.2040, 0.2359, {"eta": 0.0}, betas=LATENT, sum_tolerance=1e-3),
    Loop("edm_euler: no_noise, edm_euler: device", "euler", 34.1855, 0.044, KARRAS, edm="scaled", sum_tolerance=1e-3),
    of_edm_2m("no_noise", None, 0.0001),
    of_edm_2m("with_noise", 8.1661, 0.0106, skipped=5, noised=True),
    of_edm_2m("no_noise_thres", None, 0.0080, settings=EDM_2M | THRESHOLD),
    of_edm_2m("v_prediction", None, 0.0092, kind="v"),
]

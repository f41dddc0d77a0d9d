"""Each sampler against diffusers' on the same grid, in float64, with the closed-form denoiser, for the tests and for
tools/sampler_table.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import diffusers
import torch
from torch import Tensor

from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from tests.nodes.sampling.closed_form import eps_star, network, normal, sample, scaled_linear

STEPS = 20
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = ("schedule", "karras", "exponential")
KINDS = {"schedule": {}, "karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}

ZERO = {"final_sigmas_type": "zero"}
LAST = {"final_sigmas_type": "sigma_min"}
# our node and settings; their class and settings
RATIO: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("euler", {}, "EulerDiscreteScheduler", {}),
    ("euler", {"final": "first"}, "EulerDiscreteScheduler", LAST),
    ("heun", {}, "HeunDiscreteScheduler", {}),
    ("edm", {}, "HeunDiscreteScheduler", {}),
    ("dpm2", {}, "KDPM2DiscreteScheduler", {}),
    ("lms", {}, "LMSDiscreteScheduler", {}),
]
LAMBDA: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", ZERO),
    ("dpmpp_2m", {"final": "first"}, "DPMSolverMultistepScheduler", LAST),
    ("dpmpp_2m", {"solver_type": "heun"}, "DPMSolverMultistepScheduler", {"solver_type": "heun"} | ZERO),
    (
        "dpmpp_2m",
        {"final": "first", "euler_at_final": True},
        "DPMSolverMultistepScheduler",
        {"euler_at_final": True} | LAST,
    ),
    ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    (
        "dpmpp_2m_sde",
        {"solver_type": "heun"},
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    ("dpmpp_3m_sde", {"eta": 0.0}, "DPMSolverMultistepScheduler", {"solver_order": 3} | ZERO),
    ("unipc", {}, "UniPCMultistepScheduler", ZERO),
    ("unipc", {"final": "first"}, "UniPCMultistepScheduler", LAST),
    ("unipc", {"order": 1}, "UniPCMultistepScheduler", {"solver_order": 1}),
    ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
    (
        "unipc",
        {"lower_order_final": False, "final": "first"},
        "UniPCMultistepScheduler",
        {"lower_order_final": False} | LAST,
    ),
    ("unipc", {"variant": "bh1", "final": "first"}, "UniPCMultistepScheduler", {"solver_type": "bh1"} | LAST),
    ("deis", {"order": 2, "final": "first"}, "DEISMultistepScheduler", {"solver_order": 2}),
    ("deis", {"order": 3, "final": "first"}, "DEISMultistepScheduler", {"solver_order": 3}),
]


class Difference(NamedTuple):
    """The largest differences: of the timesteps, and of the samples relative to max |x|."""

    grid: float
    sample: float


@dataclass(frozen=True)
class Case:
    """One comparison. tolerance: of diffusers' timesteps, which it may round."""

    sampler: str
    settings: dict[str, Any]
    reference: str
    grid: str
    tolerance: float
    compare: Callable[[], Difference]

    def __str__(self) -> str:
        return "-".join([self.sampler, *(f"{name}={value}" for name, value in self.settings.items()), self.grid])


def cases() -> Iterator[Case]:
    """All comparisons."""
    for (name, more, cls, settings), spacing, sigmas in product(RATIO, SPACINGS, SIGMAS):
        tolerance = 0.5 if (name, sigmas) == ("dpm2", "karras") else 0.002  # they round dpm2's
        run = partial(in_ratio, name, more, cls, settings, spacing, sigmas)
        yield Case(name, more, cls, f"{spacing}, {sigmas}", tolerance, run)
    for (name, more, cls, settings), spacing, sigmas in product(LAMBDA, SPACINGS, SIGMAS):
        run = partial(in_lambda, name, more, cls, settings, spacing, sigmas)
        tolerance = 0 if sigmas == "schedule" else 1  # they round or cut the rest
        yield Case(name, more, cls, f"{spacing}, {sigmas}", tolerance, run)
    for final, theirs, steps in (("one", ZERO, 20), ("one", ZERO, 21), ("first", LAST, 20)):
        more = {"final": final, "steps": steps}
        yield Case("dpmpp_2s", more, "DPMSolverSinglestepScheduler", "linspace", 0, partial(dpmpp_2s, theirs, **more))
    more = {"solver_type": "heun", "steps": 20}
    heun = partial(dpmpp_2s, ZERO | {"solver_type": "heun"}, "one", 20, solver_type="heun")
    yield Case("dpmpp_2s", more, "DPMSolverSinglestepScheduler", "linspace", 0, heun)
    for final, spacing in product(("one", "first"), ("leading", "trailing")):
        yield Case("ddim", {"final": final}, "DDIMScheduler", spacing, 0, partial(ddim, spacing, final))
    for eta in (0.0, 0.5, 1.0):
        more = {"eta": eta, "clip": 0.7, "rederive_eps": False}
        yield Case("ddim", more, "DDIMScheduler", "leading", 0, partial(noisy_ddim, **more))
    for warmup, spacing in product(("plms", "runge_kutta"), ("leading", "trailing")):
        yield Case("pndm", {"warmup": warmup}, "PNDMScheduler", spacing, 0, partial(pndm, warmup, spacing))
    for warmup in ("plms", "runge_kutta"):
        more = {"warmup": warmup, "combine": "v"}
        yield Case("pndm", more, "PNDMScheduler", "leading", 0, partial(pndm, warmup, "leading", "v"))
    for variance, spacing in product(("fixed_small", "fixed_large"), SPACINGS):
        yield Case("ddpm", {"variance": variance}, "DDPMScheduler", spacing, 0, partial(ddpm, variance, spacing))
    yield Case("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", "trailing", 0, euler_ancestral)
    yield Case("dpm2_ancestral", {}, "KDPM2AncestralDiscreteScheduler", "linspace", 0.002, dpm2_ancestral)
    for steps in (1, 4, 10):
        yield Case("lcm", {"steps": steps}, "LCMScheduler", "of the distillation", 0, partial(lcm, steps))
    for steps, eta in ((1, 0.3), (4, 0.0), (4, 0.3), (10, 1.0)):
        more = {"steps": steps, "eta": eta}
        yield Case("tcd", more, "TCDScheduler", "of the distillation", 0, partial(tcd, **more))
    for sigmas in ("schedule", "karras"):
        yield Case("dpmpp_sde", {}, "DPMSolverSDEScheduler", sigmas, 0.002, partial(dpmpp_sde, sigmas))


def theirs(name: str, **settings: Any) -> Any:
    scheduler = getattr(diffusers, name)(**BETAS, **settings)
    scheduler.set_timesteps(STEPS)
    return scheduler


def follow(reference: Any, x: Tensor, noises: list[Tensor] | None = None, kind: str = "eps") -> Tensor:
    """Run their loop. The denoiser gets their level at each call, as some round the timesteps of a σ grid."""
    for i, t in enumerate(reference.timesteps):
        if hasattr(reference, "is_scale_input_called") or hasattr(reference, "state_in_first_order"):
            seen = reference.scale_model_input(x, t)
            alpha = float((seen * x).sum() / (x * x).sum())  # the state is x/α
            sigma = math.sqrt(1 - alpha**2)
        elif hasattr(reference, "sigmas"):
            seen, ratio = x, float(reference.sigmas[i])
            alpha, sigma = 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)
        else:
            seen, bar = x, float(reference.alphas_cumprod[int(t)])
            alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
        more = {} if noises is None else {"variance_noise": noises[i]}
        x = reference.step(network(seen, alpha, sigma, kind).value, t, x, return_dict=False, **more)[0]
    return x


def difference(ours: Sampler, reference: Any, actual: Tensor, expected: Tensor) -> Difference:
    """Compare the two. Raises ``AssertionError`` if they call the network a different number of times."""
    assert len(ours.steps) == len(reference.timesteps), (len(ours.steps), len(reference.timesteps))
    grid = (ours.steps.double() - reference.timesteps.double()).abs().max()
    return Difference(float(grid), float((actual - expected).abs().max() / expected.abs().max()))


def in_ratio(name: str, more: Any, cls: str, settings: Any, spacing: str, sigmas: str) -> Difference:
    """Solvers in σ/α: their state is x/α."""
    reference = theirs(cls, timestep_spacing=spacing, **settings, **KINDS[sigmas])
    ours: Sampler = getattr(samplers, name)(scaled_linear(), steps=STEPS, spacing=spacing, sigmas=sigmas, **more)
    x, start = normal(1, 64), ours.scheduler.alpha[0]
    end = 1 / math.sqrt(1 + float(reference.sigmas[-1]) ** 2)
    return difference(ours, reference, sample(ours, x), end * follow(reference, x / start))


def in_lambda(name: str, more: Any, cls: str, settings: Any, spacing: str, sigmas: str) -> Difference:
    """Solvers in λ = log(α/σ)."""
    reference = theirs(cls, timestep_spacing=spacing, **settings, **KINDS[sigmas])
    reference.sigmas = reference.sigmas.double()  # in float32, DEIS's logarithms lose five digits
    ours: Sampler = getattr(samplers, name)(scaled_linear(), steps=STEPS, spacing=spacing, sigmas=sigmas, **more)
    x = normal(1, 64)
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)] if name.endswith("sde") else None
    if noises is not None:
        x, noises = x.float().double(), [n.float().double() for n in noises]
    return difference(ours, reference, sample(ours, x, noises), follow(reference, x, noises))


def dpmpp_2s(settings: Any, final: Any, steps: int, **more: Any) -> Difference:
    reference = diffusers.DPMSolverSinglestepScheduler(**BETAS, **settings, lower_order_final=final == "one")
    reference.set_timesteps(steps)
    ours = samplers.dpmpp_2s(scaled_linear(), steps=steps, final=final, **more)
    return difference(ours, reference, sample(ours, normal(1, 64)), follow(reference, normal(1, 64)))


def ddim(spacing: Any, final: Any) -> Difference:
    reference = theirs(
        "DDIMScheduler", timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=final == "one", steps_offset=0
    )
    ours = samplers.ddim(scaled_linear(), steps=STEPS, spacing=spacing, final=final)
    return difference(ours, reference, sample(ours, normal(1, 64)), follow(reference, normal(1, 64)))


def noisy_ddim(eta: float, clip: float, rederive_eps: bool) -> Difference:
    """With noise, clipping, and the network's ε kept as it is."""
    reference = theirs("DDIMScheduler", clip_sample=True, clip_sample_range=clip)
    ours = samplers.ddim(scaled_linear(), steps=STEPS, eta=eta, clip=clip, rederive_eps=rederive_eps)
    x, noises = normal(1, 64), [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    y = x
    for t, noise in zip(reference.timesteps, noises, strict=True):
        alpha, sigma = (c.item() for c in scaled_linear().alpha_sigma(t.double().reshape(1)))
        more = {"variance_noise": noise} if eta else {}
        y = reference.step(eps_star(y, alpha, sigma), t, y, eta=eta, return_dict=False, **more)[0]
    return difference(ours, reference, sample(ours, x, noises), y)


def pndm(warmup: Any, spacing: Any, kind: Any = "eps") -> Difference:
    reference = theirs(
        "PNDMScheduler",
        timestep_spacing=spacing,
        skip_prk_steps=warmup == "plms",
        set_alpha_to_one=True,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[kind],
    )
    ours = samplers.pndm(scaled_linear(), steps=STEPS, spacing=spacing, warmup=warmup, combine=kind)
    x = normal(1, 64)
    return difference(ours, reference, sample(ours, x, kind=kind), follow(reference, x, kind=kind))


def ddpm(variance: Any, spacing: Any) -> Difference:
    reference = theirs("DDPMScheduler", timestep_spacing=spacing, clip_sample=False, variance_type=variance)
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    ours = samplers.ddpm(scaled_linear(), steps=STEPS, spacing=spacing, variance=variance)
    if (variance, spacing) == ("fixed_large", "trailing"):
        noises[-1] = noises[-1] * 0  # they add noise after t > 0 even where nothing follows
    x = normal(1, 64)
    with drawing("scheduling_ddpm", noises):
        return difference(ours, reference, sample(ours, x, noises), follow(reference, x))


def euler_ancestral() -> Difference:
    reference = theirs("EulerAncestralDiscreteScheduler", timestep_spacing="trailing")
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    ours = samplers.euler_ancestral(scaled_linear(), steps=STEPS, spacing="trailing")
    x = normal(1, 64)
    with drawing("scheduling_euler_ancestral_discrete", noises):
        return difference(ours, reference, sample(ours, x, noises), follow(reference, x / ours.scheduler.alpha[0]))


def dpm2_ancestral() -> Difference:
    reference = theirs("KDPM2AncestralDiscreteScheduler")
    ours = samplers.dpm2_ancestral(scaled_linear(), steps=STEPS)
    noises = [normal(1, 64, seed=i + 1) for i in range(len(ours.steps))]
    x = normal(1, 64)
    with drawing("scheduling_k_dpm_2_ancestral_discrete", noises[1::2]):
        return difference(ours, reference, sample(ours, x, noises), follow(reference, x / ours.scheduler.alpha[0]))


def lcm(steps: int) -> Difference:
    reference = diffusers.LCMScheduler(**BETAS)
    reference.set_timesteps(steps)
    ours = samplers.lcm(scaled_linear(), steps=steps)
    x, noises = normal(1, 64), [normal(1, 64, seed=i + 1) for i in range(steps)]
    with drawing("scheduling_lcm", noises):
        return difference(ours, reference, sample(ours, x, noises), follow(reference, x))


def tcd(steps: int, eta: float) -> Difference:
    reference = diffusers.TCDScheduler(**BETAS)
    reference.set_timesteps(steps)
    ours = samplers.tcd(scaled_linear(), steps=steps, eta=eta)
    x, noises = normal(1, 64), [normal(1, 64, seed=i + 1) for i in range(steps)]
    expected = x
    with drawing("scheduling_tcd", noises):
        for t in reference.timesteps:
            alpha, sigma = (c.item() for c in scaled_linear().alpha_sigma(t.double().reshape(1)))
            eps = eps_star(expected, alpha, sigma)
            expected = reference.step(eps, t, expected, eta=eta, return_dict=False)[0]
    return difference(ours, reference, sample(ours, x, noises), expected)


def drawing(module: str, noises: list[Tensor]) -> Any:
    """Make a scheduler of theirs draw these noises in order."""
    queue = list(noises)
    return patch.object(sys.modules[f"diffusers.schedulers.{module}"], "randn_tensor", lambda *_, **__: queue.pop(0))


def dpmpp_sde(sigmas: Any) -> Difference:
    """Both follow one Brownian path."""
    with patch.dict(sys.modules, {"torchsde": ModuleType("torchsde")}):
        from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler
    reference = DPMSolverSDEScheduler(**BETAS, use_karras_sigmas=sigmas == "karras")
    reference.set_timesteps(STEPS)
    ours = samplers.dpmpp_sde(scaled_linear(), steps=STEPS, sigmas=sigmas)
    noises = [normal(1, 64, seed=i + 1) for i in range(2 * STEPS - 1)]
    increments: dict[float, Tensor] = {}
    fresh = iter(noises)

    def brownian(start: Any, end: Any) -> Tensor:
        """(W(end) − W(start))/√|end − start|, where the second half of an interval is drawn on first use."""
        start, end = float(start), float(end)
        total = increments.pop(start, None)
        if total is None:
            increments[start] = next(fresh) * math.sqrt(start - end)
            increments[-start] = torch.tensor(end)
            return increments[start] / math.sqrt(start - end)
        middle = float(increments.pop(-start))
        return (total + next(fresh) * math.sqrt(middle - end)) / math.sqrt(start - end)

    reference.noise_sampler = brownian
    x = normal(1, 64)
    expected = follow_sde(reference, x / ours.scheduler.alpha[0])
    return difference(ours, reference, sample(ours, x, noises), expected)


def follow_sde(reference: Any, x: Tensor) -> Tensor:
    for i, t in enumerate(reference.timesteps):
        ratio = float(reference.sigmas[i] if reference.state_in_first_order else reference.mid_point_sigma)
        alpha, sigma = 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)
        x = reference.step(eps_star(alpha * x, alpha, sigma), t, x, return_dict=False)[0]
    return x

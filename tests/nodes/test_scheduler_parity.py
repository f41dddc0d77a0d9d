"""Each sampler against diffusers, in float64, on the same grid, with the closed-form denoiser: 1e-5 of max |x|."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes import scheduler as samplers
from guidegraph.nodes.scheduler import Sampler
from tests.nodes.closed_form import eps_star, normal, sample, scaled_linear

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

STEPS = 20
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = ("schedule", "karras", "exponential")

ZERO = {"final_sigmas_type": "zero"}
LAST = {"final_sigmas_type": "sigma_min"}
# our node and settings; their class and settings
RATIO = [
    ("euler", {}, "EulerDiscreteScheduler", {}),
    ("euler", {"final": "first"}, "EulerDiscreteScheduler", LAST),
    ("heun", {}, "HeunDiscreteScheduler", {}),
    ("edm", {}, "HeunDiscreteScheduler", {}),
    ("dpm2", {}, "KDPM2DiscreteScheduler", {}),
    ("lms", {}, "LMSDiscreteScheduler", {}),
]
LAMBDA = [
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", ZERO),
    ("dpmpp_2m", {"final": "first"}, "DPMSolverMultistepScheduler", LAST),
    ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("unipc", {}, "UniPCMultistepScheduler", ZERO),
    ("unipc", {"final": "first"}, "UniPCMultistepScheduler", LAST),
    ("unipc", {"order": 1}, "UniPCMultistepScheduler", {"solver_order": 1}),
    ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
    ("unipc", {"variant": "bh1", "final": "first"}, "UniPCMultistepScheduler", {"solver_type": "bh1"} | LAST),
    ("deis", {"order": 2, "final": "first"}, "DEISMultistepScheduler", {"solver_order": 2}),
    ("deis", {"order": 3, "final": "first"}, "DEISMultistepScheduler", {"solver_order": 3}),
]


def theirs(name: str, **settings: Any) -> Any:
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    found = getattr(diffusers, name)(**BETAS, **settings)
    found.set_timesteps(STEPS)
    return found


def follow(reference: Any, x: Tensor, noises: list[Tensor] | None = None, clip: float | None = None) -> Tensor:
    """Their loop. The denoiser sees their level of each call, since some of them round the timesteps of a σ grid."""
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
        x = reference.step(eps_star(seen, alpha, sigma), t, x, return_dict=False, **more)[0]
    return x


def assert_same(found: Tensor, reference: Tensor) -> None:
    assert float((found - reference).abs().max() / reference.abs().max()) < 1e-5


def same_grid(ours: Sampler, reference: Any, tolerance: float) -> None:
    assert len(ours.steps) == len(reference.timesteps)
    torch.testing.assert_close(ours.steps.double(), reference.timesteps.double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("sigmas", SIGMAS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "more", "cls", "settings"), RATIO)
def test_solvers_in_sigma_over_alpha(name: str, more: Any, cls: str, settings: Any, spacing: Any, sigmas: str) -> None:
    kinds = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
    reference = theirs(cls, timestep_spacing=spacing, **settings, **kinds.get(sigmas, {}))
    ours: Sampler = getattr(samplers, name)(scaled_linear(), steps=STEPS, spacing=spacing, sigmas=sigmas, **more)
    same_grid(ours, reference, 0.5 if (name, sigmas) == ("dpm2", "karras") else 0.002)  # they round dpm2's
    x, start = normal(1, 64), ours.scheduler.alpha[0]
    end = 1 / math.sqrt(1 + float(reference.sigmas[-1]) ** 2)
    assert_same(sample(ours, x), end * follow(reference, x / start))


@pytest.mark.parametrize("sigmas", SIGMAS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "more", "cls", "settings"), LAMBDA)
def test_solvers_in_lambda(name: str, more: Any, cls: str, settings: Any, spacing: Any, sigmas: str) -> None:
    kinds = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
    reference = theirs(cls, timestep_spacing=spacing, **settings, **kinds.get(sigmas, {}))
    reference.sigmas = reference.sigmas.double()  # in float32, DEIS's logarithms lose five digits
    ours: Sampler = getattr(samplers, name)(scaled_linear(), steps=STEPS, spacing=spacing, sigmas=sigmas, **more)
    same_grid(ours, reference, 0 if sigmas == "schedule" else 1)  # they round or cut the rest
    x = normal(1, 64)
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)] if name.endswith("sde") else None
    if noises is not None:
        x, noises = x.float().double(), [n.float().double() for n in noises]
    assert_same(sample(ours, x, noises), follow(reference, x, noises))


@pytest.mark.parametrize(("final", "settings", "steps"), [("one", ZERO, 20), ("one", ZERO, 21), ("first", LAST, 20)])
def test_dpmpp_2s(final: Any, settings: Any, steps: int) -> None:
    reference = diffusers.DPMSolverSinglestepScheduler(**BETAS, **settings, lower_order_final=final == "one")
    reference.set_timesteps(steps)
    ours = samplers.dpmpp_2s(scaled_linear(), steps=steps, final=final)
    same_grid(ours, reference, 0)
    assert_same(sample(ours, normal(1, 64)), follow(reference, normal(1, 64)))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("final", ["one", "first"])
def test_ddim(spacing: Any, final: Any) -> None:
    reference = theirs(
        "DDIMScheduler", timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=final == "one", steps_offset=0
    )
    ours = samplers.ddim(scaled_linear(), steps=STEPS, spacing=spacing, final=final)
    same_grid(ours, reference, 0)
    assert_same(sample(ours, normal(1, 64)), follow(reference, normal(1, 64)))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_with_noise_clipping_and_kept_eps(eta: float) -> None:
    reference = theirs("DDIMScheduler", clip_sample=True, clip_sample_range=0.7)
    ours = samplers.ddim(scaled_linear(), steps=STEPS, eta=eta, clip=0.7, rederive_eps=False)
    x, noises = normal(1, 64), [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    y = x
    for t, noise in zip(reference.timesteps, noises, strict=True):
        alpha, sigma = (c.item() for c in scaled_linear().alpha_sigma(t.double().reshape(1)))
        more = {"variance_noise": noise} if eta else {}
        y = reference.step(eps_star(y, alpha, sigma), t, y, eta=eta, return_dict=False, **more)[0]
    assert_same(sample(ours, x, noises), y)


@pytest.mark.parametrize("warmup", ["plms", "runge_kutta"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_pndm(warmup: Any, spacing: Any) -> None:
    reference = theirs(
        "PNDMScheduler", timestep_spacing=spacing, skip_prk_steps=warmup == "plms", set_alpha_to_one=True
    )
    ours = samplers.pndm(scaled_linear(), steps=STEPS, spacing=spacing, warmup=warmup)
    same_grid(ours, reference, 0)
    assert_same(sample(ours, normal(1, 64)), follow(reference, normal(1, 64)))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(monkeypatch: pytest.MonkeyPatch, variance: Any, spacing: Any) -> None:
    reference = theirs("DDPMScheduler", timestep_spacing=spacing, clip_sample=False, variance_type=variance)
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    queue = list(noises)
    monkeypatch.setattr(
        sys.modules["diffusers.schedulers.scheduling_ddpm"], "randn_tensor", lambda *_, **__: queue.pop(0)
    )
    ours = samplers.ddpm(scaled_linear(), steps=STEPS, spacing=spacing, variance=variance)
    same_grid(ours, reference, 0)
    if (variance, spacing) == ("fixed_large", "trailing"):
        noises[-1] = noises[-1] * 0  # they add noise after t > 0 even where nothing follows
        queue = list(noises)
    assert_same(sample(ours, normal(1, 64), noises), follow(reference, normal(1, 64)))


def test_euler_ancestral(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = theirs("EulerAncestralDiscreteScheduler", timestep_spacing="trailing")
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)]
    queue = list(noises)
    module = sys.modules["diffusers.schedulers.scheduling_euler_ancestral_discrete"]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: queue.pop(0))
    ours = samplers.euler_ancestral(scaled_linear(), steps=STEPS, spacing="trailing")
    same_grid(ours, reference, 0)
    x = normal(1, 64)
    assert_same(sample(ours, x, noises), follow(reference, x / ours.scheduler.alpha[0]))


@pytest.mark.parametrize("sigmas", ["schedule", "karras"])
def test_dpmpp_sde_follows_one_brownian_path(monkeypatch: pytest.MonkeyPatch, sigmas: Any) -> None:
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
    from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler

    reference = DPMSolverSDEScheduler(**BETAS, use_karras_sigmas=sigmas == "karras")
    reference.set_timesteps(STEPS)
    ours = samplers.dpmpp_sde(scaled_linear(), steps=STEPS, sigmas=sigmas)
    same_grid(ours, reference, 0.002)
    noises = [normal(1, 64, seed=i + 1) for i in range(2 * STEPS - 1)]
    increments: dict[float, Tensor] = {}
    fresh = iter(noises)

    def brownian(start: Any, end: Any) -> Tensor:
        """(W(end) − W(start))/√|end − start|, the second half of an interval drawn when it is first asked for."""
        start, end = float(start), float(end)
        known = increments.pop(start, None)
        if known is None:
            increments[start] = next(fresh) * math.sqrt(start - end)
            increments[-start] = torch.tensor(end)
            return increments[start] / math.sqrt(start - end)
        middle = float(increments.pop(-start))
        return (known + next(fresh) * math.sqrt(middle - end)) / math.sqrt(start - end)

    reference.noise_sampler = brownian
    x = normal(1, 64)
    assert_same(sample(ours, x, noises), follow_sde(reference, x / ours.scheduler.alpha[0]))


def follow_sde(reference: Any, x: Tensor) -> Tensor:
    for i, t in enumerate(reference.timesteps):
        ratio = float(reference.sigmas[i] if reference.state_in_first_order else reference.mid_point_sigma)
        alpha, sigma = 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)
        x = reference.step(eps_star(alpha * x, alpha, sigma), t, x, return_dict=False)[0]
    return x

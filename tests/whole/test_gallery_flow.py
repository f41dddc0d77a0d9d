"""Guidance on a flow: each method with a network that predicts u moves the sample as with its ε form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import guidegraph_apg as apg
import guidegraph_autoguidance as autoguidance
import guidegraph_cfg_zero_star as cfg_zero_star
import guidegraph_cfgpp as cfgpp
import guidegraph_dps as dps
import guidegraph_dynamic_thresholding as dynamic_thresholding
import guidegraph_freeu as freeu
import guidegraph_pag as pag
import guidegraph_seg as seg
import guidegraph_slg as slg
import guidegraph_tpg as tpg
import guidegraph_universal as universal
from guidegraph import Condition, Prediction, StepContext
from guidegraph.nodes.guidance.guidance import classifier_guidance, clip_prediction, shift_eps
from guidegraph.nodes.guidance.step_context import context as make_context
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import PredictionKind, SchedulerState
from tests.nodes.sampling.closed_form import normal

SCHEDULE = schedules.flow(shift=2)
FROM_NOISE = samplers.euler(SCHEDULE, steps=4, spacing="trailing")
LATER = samplers.euler(SCHEDULE, grids.flow(SCHEDULE, steps=4, sigma_max=0.9))
"""From a level where ε determines x0."""
CONFIG = UNetConfig(
    in_channels=2,
    out_channels=2,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(0, 1),
    heads=2,
    vector_dim=4,
    kind="flow",
)


def build_network() -> UNetDenoiser:
    """A tiny denoiser that predicts u, with random weights, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNetDenoiser(UNet(CONFIG)).double()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


NETWORK = build_network()
X, Y = normal(2, 2, 8, 8), normal(2, 2, 8, 8, seed=1)
COND, NULL = Condition(vector=normal(1, 4, seed=2)), Condition(vector=torch.zeros(1, 4, dtype=torch.float64))


@dataclass(frozen=True)
class InKind:
    """A denoiser whose predictions are converted to a kind."""

    denoiser: Any
    kind: PredictionKind

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return SCHEDULE.convert(self.denoiser(x, t, condition), self.kind, x, t)


@dataclass(frozen=True)
class Setting:
    """A step of the sampler, and the network in one kind."""

    context: StepContext
    kind: PredictionKind
    sampler: Sampler

    def predict(self, condition: Condition = COND, denoiser: Any = NETWORK) -> Prediction:
        return predict(InKind(denoiser, self.kind), self.context.x, self.context.t, condition)

    @property
    def denoiser(self) -> InKind:
        return InKind(NETWORK, self.kind)

    @property
    def both(self) -> tuple[Prediction, Prediction]:
        return self.predict(), self.predict(NULL)


def classify(x: Tensor, t: Tensor) -> Tensor:
    """Logits (B, 3) of noisy samples."""
    return torch.stack([(x * weight).flatten(1).sum(1) for weight in (Y[:1], Y[1:], Y[:1] * Y[1:])], 1)


def shift(setting: Setting, prediction: Prediction, score: Tensor) -> Prediction:
    here = setting.context
    return shift_eps(prediction, score, here.x, here.t, SCHEDULE)


def guide_by_classifier(s: Setting) -> Prediction:
    score = classifier_guidance(classify, s.context.x, s.context.t, torch.tensor([2]), scale=0.3)
    return shift(s, s.predict(), score)


def guide_universally(s: Setting) -> Prediction:
    guided = universal.guide(s.denoiser, s.context, lambda image: (image - Y).square().sum((1, 2, 3)), COND)
    return shift(s, guided.prediction, 0.1 * guided.score)


def guide_backward(s: Setting) -> Prediction:
    return universal.backward(s.predict(), s.context, lambda image: (image - Y).square().sum((1, 2, 3)))


def guide_with_perturbed(guide: Any, perturbed: Any) -> Callable[[Setting], Prediction]:
    def run(s: Setting) -> Prediction:
        cond = s.predict()
        return guide(cond, cond, s.predict(denoiser=perturbed), scale=2.0)

    return run


def guide_with_shuffled(s: Setting) -> Prediction:
    cond, here = s.predict(), s.context
    shuffled = tpg.predict_shuffled(NETWORK, here.x, here.t, normal(2, 2, 8, 8, seed=3), COND, sites="input")
    return tpg.guide(cond, cond, SCHEDULE.convert(shuffled, s.kind, here.x, here.t), scale=2.0)


METHODS: dict[str, Callable[[Setting], Prediction]] = {
    "classifier": guide_by_classifier,
    "clip": lambda s: clip_prediction(s.predict(), s.context.x, s.context.t, SCHEDULE, clip=0.5),
    "apg": lambda s: apg.guide(*s.both, s.context, apg.start(X), scale=3.0, radius=2.0).prediction,
    "autoguidance": lambda s: autoguidance.guide(
        s.predict(), s.predict(denoiser=lambda x, t, c: NETWORK(0.5 * x, t, c))
    ),
    "cfg_zero_star": lambda s: cfg_zero_star.guide(*s.both, s.context, zero_steps=1),
    "cfgpp": lambda s: cfgpp.guide(*s.both, strength=0.6),
    "dynamic_thresholding.clip": lambda s: dynamic_thresholding.clip(s.predict(), s.context, percentile=0.8),
    "dynamic_thresholding.mimic": lambda s: dynamic_thresholding.mimic(*s.both, s.context),
    "freeu": lambda s: s.predict(denoiser=freeu.apply(NETWORK)),
    "pag": guide_with_perturbed(pag.guide, pag.perturb(NETWORK)),
    "seg": guide_with_perturbed(seg.guide, seg.perturb(NETWORK)),
    "slg": guide_with_perturbed(slg.guide, slg.skip(NETWORK, sites="self")),
    "tpg": guide_with_shuffled,
    "universal.guide": guide_universally,
    "universal.backward": guide_backward,
}


def setting_at(sampler: Sampler, row: int, kind: PredictionKind) -> Setting:
    state = SchedulerState(torch.tensor([row]), sampler.state.slots)
    return Setting(make_context(sampler.scheduler, X, state, sampler.steps[row : row + 1]), kind, sampler)


def move(setting: Setting, prediction: Prediction, renoise: Prediction | None = None) -> Tensor:
    state = SchedulerState(setting.context.step, setting.sampler.state.slots)
    return step(setting.sampler.scheduler, X, prediction, state, setting.context.t, renoise=renoise).x


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("row", [0, 2, 3])
def test_a_guidance_moves_a_flow_as_its_eps_form(name: str, row: int) -> None:
    moved = []
    for kind in ("flow", "eps", "v", "x0"):
        setting = setting_at(LATER, row, kind)
        guided = METHODS[name](setting)
        assert guided.kind == kind
        renoise = setting.predict(NULL) if name == "cfgpp" else None
        moved.append(move(setting, guided, renoise))
    for other in moved[1:]:
        torch.testing.assert_close(other, moved[0], atol=1e-6, rtol=1e-6)  # t, and so α and σ, are float32
    plain = setting_at(LATER, row, "flow")
    assert float((moved[0] - move(plain, plain.predict())).abs().max()) > 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_a_guidance_is_finite_at_pure_noise(name: str) -> None:
    setting = setting_at(FROM_NOISE, 0, "flow")
    assert float(setting.context.alpha) == 0
    renoise = setting.predict(NULL) if name == "cfgpp" else None
    assert torch.isfinite(move(setting, METHODS[name](setting), renoise)).all()


def test_a_score_changes_nothing_at_pure_noise() -> None:
    setting = setting_at(FROM_NOISE, 0, "flow")
    assert torch.equal(guide_by_classifier(setting).value, setting.predict().value)


@pytest.mark.parametrize(("sampler", "row"), [(FROM_NOISE, 0), (LATER, 0), (LATER, 3)], ids=["noise", "first", "last"])
def test_posterior_sampling_corrects_a_flow_as_its_eps_form(sampler: Sampler, row: int) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :3] = 1
    results = []
    kinds: tuple[PredictionKind, ...] = ("flow", "v", "x0") if sampler is FROM_NOISE else ("flow", "eps")
    for kind in kinds:
        setting = setting_at(sampler, row, kind)
        guided = dps.guide(setting.denoiser, setting.context, dps.masked(Y, mask), COND, zeta=0.5)
        results.append(dps.correct(move(setting, guided.prediction), guided.correction))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=1e-6)
    assert torch.isfinite(results[0]).all()


def test_recurrence_goes_back_along_the_flow() -> None:
    table = universal.recur(FROM_NOISE.scheduler, times=2).scheduler
    alpha, sigma = FROM_NOISE.scheduler.alpha, FROM_NOISE.scheduler.sigma
    for row in range(1, 4):  # the row of the first time: x0 and ε of the next level, then noise back to this one
        x, x0, eps, noise = table.matrix[2 * row, 0, :4].tolist()
        end_alpha, end_sigma = (float(alpha[row + 1]), float(sigma[row + 1])) if row < 3 else (1.0, 0.0)
        ratio = float(alpha[row]) / end_alpha
        assert (x, x0, eps) == pytest.approx((0, ratio * end_alpha, ratio * end_sigma), abs=1e-12)
        assert x0 == pytest.approx(float(alpha[row]), abs=1e-12)
        assert eps**2 + noise**2 == pytest.approx(float(sigma[row]) ** 2, abs=1e-12)

"""Diffusion posterior sampling: algorithm 1 by a plain loop, and a Gaussian whose posterior is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import guidegraph_dps
from guidegraph import Condition, Prediction, StepContext, load_workflow
from guidegraph.graph.planning.admission import list_admission_problems
from guidegraph_dps.measurements import Downsampled, bicubic
from guidegraph_runtime.noise import gaussian
from guidegraph_testing import Check, NodeCase, conformance_cases
from tests.graph.export.exporting import LEVEL, changed, difference, made

FOLDER = Path(guidegraph_dps.__file__).parent
CLOTHES = """
guidegraph: 1
params: {zeta: 0.5, strength: 2.0, steps: 3, batch: 2, seed: 0}
nodes:
  model:     {use: model.load, with: {path: "pkg:fashion_unconditional"}}
  judge:     {use: model.load, with: {path: "pkg:fashion_classifier"}}
  data:      {use: data.fashion, in: {batch: params.batch}, with: {split: test}}
  mask:      {use: mask.box, with: {size: 32, top: 8, left: 8, height: 16, width: 16}}
  seen:      {use: dps.masked, in: {sample: data.sample, mask: mask}}
  scheduler: {use: scheduler.ddpm, in: {schedule: model.schedule, steps: params.steps}, with: {variance: fixed_small}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [1, 32, 32]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      context: {use: guidance.context, in: {scheduler: scheduler.scheduler, x: carry.x, state: carry.state, t: loop.t}}
      guided:  {use: dps.guide, in: {denoiser: model.denoiser, context: context, measurement: seen, zeta: params.zeta}}
      score:
        use: guidance.classifier
        in: {classifier: judge.classifier, x: carry.x, t: loop.t, label: data.label, scale: params.strength}
      fresh:   {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          {scheduler: scheduler.scheduler, x: carry.x, prediction: guided.prediction, score: score, noise: fresh,
           state: carry.state, t: loop.t}
      corrected: {use: dps.correct, in: {x: step.x, correction: guided.correction}}
    next: {x: corrected, state: step.state}
outputs:
  {x: sample.x, sample: data.sample, label: data.label, start: noise, denoiser: model.denoiser,
   classifier: judge.classifier, schedule: model.schedule, times: scheduler.steps}
"""
TINY = '''
"""Small networks in the places of the embedded ones."""

from typing import NamedTuple

import torch
from torch import nn

from guidegraph import Autoencoder, Denoiser, Prediction, hookimpl, node


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.vector = nn.Linear(128, 8)

    def forward(self, x, t, condition=None):
        inner = self.first(x) + (self.vector(condition.vector) + t[:, None] / 1000)[:, :, None, None]
        return Prediction(self.last(nn.functional.silu(inner)), "v")


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Conv2d(4, 3, 3, padding=1)

    def encode(self, image):
        raise NotImplementedError

    def decode(self, latent):
        return torch.tanh(self.only(nn.functional.interpolate(latent, scale_factor=4, mode="nearest")))


class Small(NamedTuple):
    denoiser: Denoiser
    autoencoder: Autoencoder


@node("dps_tiny.models", host=True)
def models() -> Small:
    """Always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small(Network().eval().requires_grad_(False), Decoder().eval().requires_grad_(False))


@hookimpl
def guidegraph_nodes():
    return [models]
'''
SMALL = [
    ("nodes:\n", "nodes:\n  small_ones: {use: dps_tiny.models}\n"),
    ("denoiser: model.denoiser", "denoiser: small_ones.denoiser"),
    ("autoencoder: model.autoencoder", "autoencoder: small_ones.autoencoder"),
]


class Gaussian:
    """The exact denoiser of N(mean, covariance) over the flattened sample, on a schedule of ᾱ."""

    def __init__(self, mean: Tensor, covariance: Tensor, alphas_bar: Tensor) -> None:
        self.mean, self.covariance, self.alphas_bar = mean, covariance, alphas_bar

    def gain(self, t: Tensor) -> Tensor:
        """∂x̂₀/∂x: α C (α² C + σ² I)⁻¹."""
        bar = self.alphas_bar[t.long()[0]]
        marginal = bar * self.covariance + (1 - bar) * torch.eye(len(self.mean), dtype=self.mean.dtype)
        return bar.sqrt() * torch.linalg.solve(marginal, self.covariance).T

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha = self.alphas_bar[t.long()[0]].sqrt()
        x0 = self.mean + (x.flatten(1) - alpha * self.mean) @ self.gain(t).T
        return Prediction(x0.reshape(x.shape), "x0")


def context(x: Tensor, t: int, alphas_bar: Tensor) -> StepContext:
    bar = alphas_bar[t].reshape(1)
    ones = torch.ones(1, dtype=torch.int64)
    return StepContext(x, torch.tensor([float(t)]), bar.sqrt(), (1 - bar).sqrt(), t * ones, 100 * ones)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prior(size: int, alphas_bar: Tensor) -> Gaussian:
    """A smooth Gaussian: neighbours are alike."""
    place = torch.arange(size, dtype=torch.float64)
    covariance = 0.5 * torch.exp(-(place[:, None] - place).abs() / 3) + 1e-3 * torch.eye(size, dtype=torch.float64)
    return Gaussian(torch.linspace(-0.5, 0.5, size, dtype=torch.float64), covariance, alphas_bar)


def test_the_correction_of_a_linear_denoiser_is_that_of_the_closed_form() -> None:
    alphas_bar = torch.linspace(0.99, 0.01, 100, dtype=torch.float64)
    denoiser = prior(64, alphas_bar)
    x, sample = draw(3, 1, 8, 8), draw(3, 1, 8, 8, seed=1)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    actual = guidegraph_dps.guide(
        denoiser, context(x, 40, alphas_bar), guidegraph_dps.masked(sample, mask), zeta=torch.tensor([0.5, 1.0, 2.0])
    )
    kept = 1 - mask.flatten().double()
    residual = kept * (sample - denoiser(x, torch.tensor([40.0]), Condition()).value).flatten(1)
    length = residual.norm(dim=1, keepdim=True)
    zeta = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    expected = zeta / length * (-2 * residual @ denoiser.gain(torch.tensor([40.0])))
    torch.testing.assert_close(actual.correction.flatten(1), expected)
    torch.testing.assert_close(actual.distance, length[:, 0])
    torch.testing.assert_close(actual.prediction.value, denoiser(x, torch.tensor([40.0]), Condition()).value)


def test_each_sample_has_its_own_norm() -> None:
    alphas_bar = torch.linspace(0.99, 0.01, 100, dtype=torch.float64)
    denoiser, x, small = prior(64, alphas_bar), draw(3, 1, 8, 8), draw(3, 1, 2, 2, seed=1)
    together = guidegraph_dps.guide(denoiser, context(x, 30, alphas_bar), guidegraph_dps.downsampled(small))
    for i in range(3):
        seen = guidegraph_dps.downsampled(small[i : i + 1])
        alone = guidegraph_dps.guide(denoiser, context(x[i : i + 1], 30, alphas_bar), seen)
        torch.testing.assert_close(together.correction[i : i + 1], alone.correction)


def test_the_reduction_is_the_bicubic_one_of_torch() -> None:
    x = draw(2, 3, 24, 16)
    reduced = Downsampled(torch.zeros(2, 3, 6, 4), bicubic(6, 4, x), bicubic(4, 4, x))
    expected = functional.interpolate(x, (6, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(-reduced(x), expected)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        guidegraph_dps.masked(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(("samples", "masks"), [(2, 1), (1, 3), (3, 3)])
def test_one_mask_is_for_all_samples_and_one_sample_is_seen_through_each_mask(samples: int, masks: int) -> None:
    sample, mask = draw(samples, 1, 8, 8), (draw(masks, 1, 8, 8, seed=1) > 0).double()
    residual = guidegraph_dps.masked(sample, mask)(torch.zeros(max(samples, masks), 1, 8, 8, dtype=torch.float64))
    assert torch.equal(residual, (1 - mask) * sample)


def test_a_mask_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1, 8, 8\) and the sample \(2, 1, 8, 8\): give one mask for all"):
        guidegraph_dps.masked(torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 8, 8), (2, 4, 8, 8), (3, 3, 8, 8), (1, 3, 8, 8)])
def test_a_sample_that_was_not_measured_is_refused(shape: tuple[int, ...]) -> None:
    hidden = guidegraph_dps.masked(torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8))
    reduced = guidegraph_dps.downsampled(torch.zeros(2, 3, 2, 2), factor=4)
    for measurement in (hidden, reduced):
        assert measurement(torch.zeros(2, 3, 8, 8)).shape[0] == 2
        with pytest.raises(ValueError, match=r"of samples of shape \(2, 3, 8, 8\), and .* wire 'autoencoder'"):
            measurement(torch.zeros(shape))


def test_samples_of_a_gaussian_have_the_moments_of_its_posterior() -> None:
    """Every hidden value depends on one that is seen: m_h + ρ (y − m_s) is its mean, and (1 − ρ²) s² its variance.

    The covariance of y given x_t is then a multiple of the identity, and the correction has the direction of the exact
    score: what DPS leaves out in general (Chung et al. 2023, theorem 1) is its size alone, which ζ sets.
    """
    steps, rho, variance = 200, 0.8, 0.5
    beta = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    alphas_bar = torch.cumprod(1 - beta, 0)
    ones = torch.eye(8, dtype=torch.float64)
    covariance = variance * torch.cat([torch.cat([ones, rho * ones], 1), torch.cat([rho * ones, ones], 1)])
    denoiser = Gaussian(torch.linspace(-0.5, 0.5, 16, dtype=torch.float64), covariance, alphas_bar)
    mask = torch.zeros(1, 1, 4, 4)
    mask[:, :, 2:] = 1
    seen = guidegraph_dps.masked((denoiser.mean + 1).reshape(1, 1, 4, 4), mask)
    x = draw(200, 1, 4, 4)
    for t in reversed(range(steps)):
        guided = guidegraph_dps.guide(denoiser, context(x, t, alphas_bar), seen, zeta=0.1)
        bar, before = alphas_bar[t], alphas_bar[t - 1] if t else torch.ones((), dtype=torch.float64)
        of_x0, of_x = before.sqrt() * beta[t], (1 - beta[t]).sqrt() * (1 - before)
        mean = (of_x0 * guided.prediction.value + of_x * x) / (1 - bar)
        spread = (beta[t] * (1 - before) / (1 - bar)).sqrt()
        x = guidegraph_dps.correct(mean + spread * draw(*x.shape, seed=t + 1), guided.correction)
    shift = (x.flatten(1) - denoiser.mean).unflatten(1, (2, 8))
    assert abs(shift[:, 0].mean() - 1) < 0.02
    assert abs(shift[:, 1].mean() - rho) < 0.08
    assert abs(shift[:, 1].std(0).mean() / (variance * (1 - rho**2)) ** 0.5 - 1) < 0.12


def by_hand(values: dict[str, Any], zeta: float, strength: float) -> Tensor:
    """Algorithm 1 with a classifier's score on the mean, written as one loop."""
    times = [int(t) for t in values["times"]]
    bars = [*(float(values["schedule"].alphas_bar[t]) for t in times), 1.0]
    kept = torch.ones(1, 1, 32, 32)
    kept[..., 8:24, 8:24] = 0
    x, y = values["start"], kept * values["sample"]
    for i, t in enumerate(times):
        bar, before, when = bars[i], bars[i + 1], torch.full((len(x),), float(t))
        with torch.enable_grad():
            x_in = x.clone().requires_grad_()
            v = values["denoiser"](x_in, when, Condition()).value
            x0 = bar**0.5 * x_in - (1 - bar) ** 0.5 * v
            (down,) = torch.autograd.grad((y - kept * x0).flatten(1).norm(dim=1).sum(), x_in)
            log_p = torch.log_softmax(values["classifier"](x_in, when), 1).gather(1, values["label"][:, None])
            (up,) = torch.autograd.grad(log_p.sum(), x_in)
        beta = 1 - bar / before
        variance = beta * (1 - before) / (1 - bar)
        mean = (before**0.5 * beta * x0.detach() + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - bar)
        fresh = torch.from_numpy(gaussian(0, (1, 32, 32), len(x), i)).float()
        x = mean + variance * strength * up + variance**0.5 * fresh - zeta * 2 * down
    return x


@pytest.mark.parametrize("zeta", [0.5, 0.0])
def test_the_workflow_is_algorithm_1_beside_a_classifier(tmp_path: Path, zeta: float) -> None:
    path = tmp_path / "clothes.yaml"
    path.write_text(CLOTHES, encoding="utf-8")
    outputs = load_workflow(path, plugins=("guidegraph_dps",)).run(steps=3, zeta=zeta, strength=2.0)
    torch.testing.assert_close(outputs["x"], by_hand(outputs, zeta, 2.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["inpaint", "super_resolution"])
def test_the_workflow_draws(name: str) -> None:
    workflow = load_workflow(FOLDER / f"{name}.yaml", plugins=("guidegraph_dps",))
    guided, plain = (workflow.run(steps=2, zeta=zeta)["image"] for zeta in (1.0, 0.0))
    assert guided.shape == (1, 3, 64, 64)
    assert guided.isfinite().all()
    assert not torch.equal(guided, plain)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """This plugin and the small networks."""
    path = tmp_path_factory.mktemp("plugins") / "dps_tiny.py"
    path.write_text(TINY, encoding="utf-8")
    return "guidegraph_dps", str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inpaint", "super_resolution"])
def test_the_workflow_exports(name: str, plugins: tuple[str, str], tmp_path: Path) -> None:
    workflow = changed(FOLDER / f"{name}.yaml", SMALL, tmp_path)
    exported = made(workflow, tmp_path, plugins, steps=3, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "zeta": 2.0}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
    assert difference(exported.run(zeta=0.0), exported.run(zeta=2.0)) > LEVEL


@pytest.mark.parametrize("name", ["inpaint", "super_resolution"])
def test_prompts_for_another_batch_are_refused_before_a_run(name: str) -> None:
    workflow = load_workflow(FOLDER / f"{name}.yaml", plugins=("guidegraph_dps",))
    defaults = {key: port.default for key, port in workflow.graph.params.items()}
    three = {**defaults, "prompt": ["a tiger"] * 3}
    (problem,) = list_admission_problems(workflow.graph, three)
    assert problem.message.startswith("dps.guide: the condition is for 3 samples and x makes 1: give one for all")
    assert list_admission_problems(workflow.graph, {**three, "batch": 3}) == []


class Half:
    """Half of a sample was seen, as zeros."""

    def __call__(self, x: Tensor) -> Tensor:
        return -x / 2


OWN = {"context": "the gradient at x is the node's own, so x begins a graph there, as in guidance.classifier"}


@pytest.mark.parametrize(
    "check",
    conformance_cases(
        guidegraph_dps,
        NodeCase(guidegraph_dps.guide, inputs={"measurement": Half()}, detached=OWN),
        slow=("ONNX export",),
    ),
)
def test_conforms(check: Check) -> None:
    check()

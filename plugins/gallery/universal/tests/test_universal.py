"""Universal guidance: its equations in closed form, the losses, recurrence by a plain loop, and the workflows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import guidegraph_universal as universal
from guidegraph import Condition, NodeError, Prediction, StepContext, load_workflow
from guidegraph.graph.planning.admission import list_admission_problems
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler
from guidegraph.nodes.sampling.scheduler_join import join
from guidegraph_testing import Check, NodeCase, conformance_cases
from tests.graph.export.exporting import LEVEL, WORKFLOWS, changed, difference, made

FOLDER = Path(universal.__file__).parent
TINY = '''
"""Small networks in the places of the embedded ones."""

from typing import NamedTuple

import torch
from torch import nn

from guidegraph import Autoencoder, Condition, Denoiser, Prediction, hookimpl, node


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
        return torch.tanh(self.only(nn.functional.interpolate(latent, scale_factor=2, mode="nearest")))


class Small(NamedTuple):
    denoiser: Denoiser
    autoencoder: Autoencoder


@node("tiny.models", host=True)
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
    ("nodes:\n", "nodes:\n  small:     {use: tiny.models}\n"),
    ("denoiser: model.denoiser", "denoiser: small.denoiser"),
    ("autoencoder: model.autoencoder", "autoencoder: small.autoencoder"),
]


class Linear:
    """x̂₀ = gain · x + shift of every value, as an x0 prediction."""

    def __init__(self, gain: float, shift: float) -> None:
        self.gain, self.shift = gain, shift

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return Prediction(self.gain * x + self.shift, "x0")


class Grey:
    """A decoder of one channel to three, each with its own weight."""

    weights = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64).reshape(1, 3, 1, 1)

    def encode(self, image: Tensor) -> Tensor:
        return image[:, :1]

    def decode(self, latent: Tensor) -> Tensor:
        return latent * self.weights


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def context(x: Tensor, bar: float = 0.36) -> StepContext:
    levels = torch.tensor([bar], dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.int64)
    return StepContext(x, torch.tensor([10.0]), levels.sqrt(), (1 - levels).sqrt(), ones, 5 * ones)


def square_of(target: Tensor) -> universal.Loss:
    return lambda image: 0.5 * (image - target).square().sum((1, 2, 3))


def test_forward_guidance_is_that_of_the_closed_form() -> None:
    x, target = draw(2, 1, 4, 4), draw(2, 3, 4, 4, seed=1)
    actual = universal.guide(
        Linear(0.7, 0.2), context(x), square_of(target), autoencoder=Grey(), strength=torch.tensor([2.0, 3.0])
    )
    picture = (0.7 * x + 0.2) * Grey.weights
    gradient = 0.7 * ((picture - target) * Grey.weights).sum(1, keepdim=True)
    strength = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(actual.score, -strength * gradient)
    torch.testing.assert_close(actual.loss, square_of(target)(picture))
    torch.testing.assert_close(actual.prediction.value, 0.7 * x + 0.2)


def test_backward_guidance_is_that_of_the_closed_form() -> None:
    """Gradient descent on ½‖ẑ₀ + Δ − c‖² from 0 is at (1 − (1 − r)^m)(c − ẑ₀) after m steps."""
    x, target = draw(2, 1, 4, 4), draw(2, 1, 4, 4, seed=1)
    step_context = context(x)
    eps = Prediction(draw(2, 1, 4, 4, seed=2), "eps")
    actual = universal.backward(eps, step_context, square_of(target), steps=3, rate=0.25)
    x0 = (x - 0.8 * eps.value) / 0.6
    change = (1 - 0.75**3) * (target - x0)
    assert actual.kind == "eps"
    torch.testing.assert_close(actual.value, eps.value - 0.6 / 0.8 * change)


def test_each_sample_is_guided_by_its_own_loss() -> None:
    x, target = draw(3, 1, 4, 4), draw(1, 1, 4, 4, seed=1)
    together = universal.guide(Linear(0.7, 0.2), context(x), square_of(target))
    for i in range(3):
        alone = universal.guide(Linear(0.7, 0.2), context(x[i : i + 1]), square_of(target))
        torch.testing.assert_close(together.score[i : i + 1], alone.score)


def test_the_losses_equal_their_formulas() -> None:
    image = draw(2, 3, 6, 6).clamp(-1, 1)
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., :2, :3] = 1
    rgb = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    total, part = (universal.colour(region, red=0.0, green=0.5, blue=1.0)(image) for region in (None, mask))
    torch.testing.assert_close(total, (image.mean((2, 3)) - rgb).square().sum(1))
    torch.testing.assert_close(part, (image[..., :2, :3].mean((2, 3)) - rgb).square().sum(1))

    vectors = draw(2, 8, seed=1)
    text = universal.text(lambda image: Condition(vector=vectors), Condition(vector=vectors[:1]))
    cosine = vectors[0] @ vectors[1] / vectors[0].norm() / vectors[1].norm()
    torch.testing.assert_close(text(image), torch.stack([torch.zeros_like(cosine), 1 - cosine]))

    logits, classes = draw(2, 5, 6, 6), torch.arange(72).reshape(2, 6, 6) % 5
    semantic = functional.one_hot(classes, 5).permute(0, 3, 1, 2)
    expected = functional.cross_entropy(logits, classes, reduction="none").mean((1, 2))
    torch.testing.assert_close(universal.mask(lambda image: logits, semantic)(image), expected)


def test_the_colour_of_a_latent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found shape \(2, 4, 6, 6\): wire 'autoencoder'"):
        universal.colour()(draw(2, 4, 6, 6))


def test_a_text_without_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="no vector"):
        universal.text(lambda image: Condition(), Condition(tokens=torch.zeros(1, 2, 8)))


RECUR = """
guidegraph: 1
params: {times: 3, steps: 3, eta: 0.0}
nodes:
  schedule:  {use: schedule.cosine}
  scheduler: {use: scheduler.SAMPLER, in: {schedule: schedule, steps: params.steps}SETTINGS}
  recur:     {use: universal.recur, in: {scheduler: scheduler.scheduler, times: params.times}}
  noise:     {use: noise.gaussian, with: {shape: [1, 4, 4], batch: 2}}
  sample:
    loop: {over: recur.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      context:   {use: guidance.context, in: {scheduler: recur.scheduler, x: carry.x, state: carry.state, t: loop.t}}
      half:      {use: half.predict, in: {context: context}}
      fresh:     {use: noise.gaussian, in: {like: carry.x, index: loop.index}}
      step:
        use: scheduler.step
        in: {scheduler: recur.scheduler, x: carry.x, prediction: half, noise: fresh, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
    collect: {noises: fresh}
outputs: {x: sample.x, start: noise, noises: sample.noises, plain: scheduler.scheduler, repeated: recur.scheduler}
"""
HALF = '''
from guidegraph import Prediction, StepContext, hookimpl, node


@node("half.predict")
def half(context: StepContext) -> Prediction:
    """x̂₀ = x/2."""
    return Prediction(context.x / 2, "x0")


@hookimpl
def guidegraph_nodes():
    return [half]
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """This plugin and one beside it, by the other's name; a module is imported once."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, source in {"universal_tiny": TINY, "universal_half": HALF}.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return {name: ("guidegraph_universal", str(folder / f"universal_{name}.py")) for name in ("tiny", "half")}


Recurred = Callable[..., dict[str, Any]]


@pytest.fixture
def recurrence(plugins: dict[str, tuple[str, str]], tmp_path: Path) -> Recurred:
    """RECUR run with a sampler."""

    def run(sampler: str, settings: str = "", **params: object) -> dict[str, Any]:
        path = tmp_path / "recur.yaml"
        path.write_text(RECUR.replace("SAMPLER", sampler).replace("SETTINGS", settings), encoding="utf-8")
        return load_workflow(path, plugins=plugins["half"], cache="off").run(**params)

    return run


@pytest.mark.parametrize("final", ["one", "first"])
def test_recurrence_is_equation_10_by_a_plain_loop(recurrence: Recurred, final: str) -> None:
    actual = recurrence("ddim", f", with: {{final: {final}}}")
    bars = actual["plain"].alpha.square().tolist()
    bars.append(1.0 if final == "one" else bars[-1])
    x, noises = actual["start"].double(), iter(actual["noises"].double())
    for bar, before in pairwise(bars):
        for time in range(3):
            eps = (x - bar**0.5 * x / 2) / (1 - bar) ** 0.5
            moved = before**0.5 * x / 2 + (1 - before) ** 0.5 * eps
            fresh = next(noises)
            x = moved if time == 2 else (bar / before) ** 0.5 * moved + (1 - bar / before) ** 0.5 * fresh
    torch.testing.assert_close(actual["x"].double(), x, rtol=1e-5, atol=1e-5)


def test_a_repeated_step_draws_more_noise(recurrence: Recurred) -> None:
    actual = recurrence("ddpm", times=2)
    plain, repeated = actual["plain"].matrix[:, 0], actual["repeated"].matrix[:, 0]
    bar = actual["plain"].alpha.square()
    ratio = bar / torch.cat([bar[1:], torch.ones(1, dtype=bar.dtype)])
    torch.testing.assert_close(repeated[1::2], plain)
    torch.testing.assert_close(repeated[::2, :3], ratio.sqrt()[:, None] * plain[:, :3])
    torch.testing.assert_close(repeated[::2, 3].square(), ratio * plain[:, 3].square() + 1 - ratio)


def test_steps_taken_once_equal_the_sampler(recurrence: Recurred) -> None:
    actual = recurrence("ddim", times=1)
    torch.testing.assert_close(actual["repeated"].matrix, actual["plain"].matrix, rtol=0, atol=0)
    assert not actual["repeated"].reads_noise


@pytest.mark.parametrize(("sampler", "settings"), [("dpmpp_2m", ""), ("ddpm", ", with: {variance: learned}")])
def test_samplers_whose_steps_cannot_be_repeated_are_refused(recurrence: Recurred, sampler: str, settings: str) -> None:
    with pytest.raises(NodeError, match="keeps no values"):
        recurrence(sampler, settings)


def test_a_joined_sampler_is_refused_and_those_that_are_repeated_can_be_joined() -> None:
    schedule = schedules.linear()
    tables = [scheduler.ddim(schedule, steps=3).scheduler, scheduler.euler(schedule, steps=3).scheduler]
    with pytest.raises(ValueError, match=r"a table of several samplers.*join the results with scheduler\.join"):
        universal.recur(join(tables).scheduler)
    joined = join([universal.recur(table, times=2).scheduler for table in tables])
    assert joined.scheduler.matrix.isfinite().all()
    assert len(joined.steps) == 6


@pytest.fixture
def tiny(plugins: dict[str, tuple[str, str]], tmp_path: Path) -> tuple[Path, tuple[str, str]]:
    """text_to_image.yaml with small networks, and the plugins that it needs."""
    return changed(FOLDER / "text_to_image.yaml", SMALL, tmp_path), plugins["tiny"]


def test_strength_0_is_classifier_free_guidance_and_more_brings_the_colour_nearer(
    tiny: tuple[Path, tuple[str, str]], tmp_path: Path
) -> None:
    workflow = load_workflow(tiny[0], plugins=tiny[1])
    (tmp_path / "plain").mkdir()
    plain = changed(WORKFLOWS / "text_to_image.yaml", SMALL, tmp_path / "plain")
    cfg = load_workflow(plain, plugins=tiny[1]).run(steps=4, batch=2, seed=0)["image"]
    pictures = [workflow.run(steps=4, batch=2, strength=s, red=0.9)["image"] for s in (0.0, 2.0)]
    torch.testing.assert_close(pictures[0], cfg, rtol=1e-5, atol=1e-5)
    distance = [universal.colour(red=0.9, green=0.3, blue=0.3)(picture) for picture in pictures]
    assert (distance[1] < distance[0]).all()
    alone = workflow.run(steps=4, batch=1, strength=2.0, red=0.9, seed=1)["image"]
    torch.testing.assert_close(alone, pictures[1][1:], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_gradient_through_decoder_and_guided_denoiser_exports(
    tiny: tuple[Path, tuple[str, str]], tmp_path: Path
) -> None:
    exported = made(tiny[0], tmp_path, tiny[1], steps=3, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "strength": 40.0, "red": 0.9}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
    assert difference(exported.run(strength=0.0), exported.run(strength=40.0)) > LEVEL


@pytest.mark.slow
def test_a_sampler_with_recurrence_exports(plugins: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    text = (
        RECUR.replace("SAMPLER", "ddim").replace("SETTINGS", "").replace("times: params.times}}", "with: {times: 3}}")
    )
    text = text.replace("in: {scheduler: scheduler.scheduler, with:", "in: {scheduler: scheduler.scheduler}, with:")
    workflow = tmp_path / "recur.yaml"
    workflow.write_text(text[: text.index("outputs:")] + "outputs: {x: sample.x}\n", encoding="utf-8")
    exported = made(workflow, tmp_path, plugins["half"], steps=3)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by_text", "by_map"])
def test_the_workflow_draws_under_its_loss(name: str) -> None:
    workflow = load_workflow(FOLDER / f"{name}.yaml", plugins=("guidegraph_universal",))
    pictures = [workflow.run(steps=10, strength=strength)["image"] for strength in (0.0, 20.0)]
    assert pictures[0].shape == pictures[1].shape == (1, 3, 64, 64)
    assert not torch.equal(*pictures)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("by_text", "text", "loss"),
        ("by_text", "prompt", "condition"),
        ("by_map", "prompt", "condition"),
        ("text_to_image", "prompt", "condition"),
    ],
)
def test_prompts_for_another_batch_are_refused_before_a_run(name: str, parameter: str, value: str) -> None:
    workflow = load_workflow(FOLDER / f"{name}.yaml", plugins=("guidegraph_universal",))
    defaults = {key: port.default for key, port in workflow.graph.params.items()}
    (problem,) = list_admission_problems(workflow.graph, {**defaults, parameter: ["a tiger"] * 3})
    assert problem.message.startswith(f"universal.guide: the {value} is for 3 samples and x makes 1: give one for all")
    assert list_admission_problems(workflow.graph, {**defaults, parameter: ["a tiger"] * 3, "batch": 3}) == []


LOSS = {"loss": lambda image: (image - 0.1).square().mean((1, 2, 3))}
OWN = {"context": "the gradient at x is the node's own, so x begins a graph there, as in guidance.classifier"}


@pytest.mark.parametrize(
    "check",
    conformance_cases(
        universal,
        NodeCase(universal.guide, inputs=LOSS, detached=OWN),
        NodeCase(universal.backward, inputs=LOSS, constant=("steps",)),
        NodeCase(universal.recur, constant=("times",)),
        NodeCase(universal.value, inputs=LOSS),
        slow=("ONNX export",),
    ),
)
def test_conforms(check: Check) -> None:
    check()

"""Exported functions compute the same as torch, at sizes that were not traced, with and without a gradient inside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental import proxy_tensor
from torch.nn import functional as F

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: E402

from guidegraph.graph.export.errors import ExportError  # noqa: E402
from guidegraph.graph.export.onnx.decompositions import register_decomposition  # noqa: E402
from guidegraph.graph.export.onnx.program import OPSET, onnx_registry  # noqa: E402
from guidegraph.graph.export.onnx.trace import Axis, TracedPart, save_part, trace_part  # noqa: E402
from guidegraph.nodes.conditioning.mask import apply_mask  # noqa: E402
from guidegraph.nodes.guidance.guidance import classifier_free_guidance, classifier_guidance, shift_eps  # noqa: E402
from guidegraph.nodes.models.own.box_detector import ObjectMaps, find_objects  # noqa: E402
from guidegraph.nodes.models.own.classifier import ClassifierConfig, NoisyClassifier  # noqa: E402
from guidegraph.nodes.models.own.unet import (  # noqa: E402
    UNet,
    UNetConfig,
    UNetDenoiser,
)
from guidegraph.nodes.sampling.denoiser import predict  # noqa: E402
from guidegraph.nodes.sampling.schedule import linear  # noqa: E402
from guidegraph.nodes.sampling.scheduler import ddim  # noqa: E402
from guidegraph.nodes.sampling.scheduler_step import step  # noqa: E402
from guidegraph.nodes.shape_checks import has_values  # noqa: E402
from guidegraph.nodes.types import Condition, SchedulerState  # noqa: E402
from guidegraph_families.networks.config import ClassifierShape, UNetShape  # noqa: E402
from guidegraph_families.networks.unet import ReleasedClassifier  # noqa: E402

Function = Callable[..., tuple[Tensor, ...]]
Axes = list[Mapping[int, Axis]]

BATCH = Axis("batch", max=1024)
HEIGHT, WIDTH = (Axis(name, min=2, max=512, multiple_of=2) for name in ("height", "width"))
TOKENS = Axis("tokens", max=256)
HERE = Path(__file__).as_posix()


def frozen(module: nn.Module, seed: int = 0) -> Any:
    """The module with random weights: ours start with zeros in places, which would hide mistakes."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def run(part: TracedPart, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    named = {name: tensor.numpy() for name, tensor in zip(part.inputs, inputs, strict=True)}
    return list(session.run(list(part.outputs), named))


def check(part: TracedPart, function: Function, *examples: Sequence[Tensor]) -> None:
    """The part agrees with the function within 1e-5 of the largest value."""
    for inputs in examples:
        for actual, expected in zip(run(part, inputs), function(*inputs), strict=True):
            assert actual.shape == tuple(expected.shape)
            scale = expected.abs().max().clamp(min=1e-3)
            assert np.abs(actual - expected.numpy()).max() <= 1e-5 * scale


def unet() -> UNetDenoiser:
    config = UNetConfig(
        in_channels=2, out_channels=2, channels=8, multipliers=(1, 2), blocks=1, attention=(), heads=2, context_dim=6
    )
    denoiser: UNetDenoiser = frozen(UNetDenoiser(UNet(config)))
    return denoiser


def samples(batch: int, height: int = 8, width: int = 6, tokens: int = 5) -> list[Tensor]:
    """x, t, tokens and their mask."""
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[:, 1:2] = False
    return [torch.randn(batch, 2, height, width), torch.rand(1) * 900, torch.randn(batch, tokens, 6), mask]


SAMPLE_AXES: Axes = [
    {0: BATCH, 2: HEIGHT, 3: WIDTH},
    {},
    {0: BATCH, 1: TOKENS},
    {0: BATCH, 1: TOKENS},
]
SAMPLE_NAMES = ["x", "t", "tokens", "mask"]


@pytest.mark.slow
def test_guidance_with_two_calls_at_any_size() -> None:
    denoiser, empty = unet(), torch.randn(1, 3, 6)

    def function(x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        cond = predict(denoiser, x, t, Condition(tokens=tokens, mask=mask))
        uncond = predict(denoiser, x, t, Condition(tokens=empty))
        return (classifier_free_guidance(cond, uncond, scale=scale).value,)

    def inputs(*sizes: int) -> list[Tensor]:
        return [*samples(*sizes), torch.rand(()) * 9]

    part = trace_part(function, inputs(1), [*SAMPLE_NAMES, "scale"], [*SAMPLE_AXES, {}], ["guided"])
    assert not part.gradient
    assert part.inputs == {
        "x": ("batch", 2, "height", "width"),
        "t": (1,),
        "tokens": ("batch", "tokens", 6),
        "mask": ("batch", "tokens"),
        "scale": (),
    }
    assert part.outputs == {"guided": ("batch", 2, "height", "width")}
    weights = {id(tensor): tensor.numel() * 4 for tensor in denoiser.parameters()}
    assert part.weight_bytes <= 1.2 * sum(weights.values())  # each once, though there are two calls
    check(part, function, inputs(1), inputs(3, 4, 10, 2), inputs(2, 16, 2, 9))


def test_a_constant_whose_values_a_node_checks() -> None:
    """A mask that is fixed at export: its values are known, but not what a traced graph computes from them."""
    mask = (torch.arange(48.0).reshape(1, 1, 8, 6) % 3 == 0).float()

    def function(image: Tensor) -> tuple[Tensor, ...]:
        return (apply_mask(image, mask),)

    part = trace_part(function, [torch.randn(1, 3, 8, 6)], ["image"], [{0: BATCH}], ["masked"])
    check(part, function, [torch.randn(2, 3, 8, 6)])


def test_the_objects_that_a_detector_finds() -> None:
    def function(kinds: Tensor, colours: Tensor, geometry: Tensor) -> tuple[Tensor, ...]:
        objects = find_objects(ObjectMaps(kinds, colours, geometry), threshold=0.3, most=4, overlap=0.3)
        return objects.object, objects.colour, objects.box, objects.score

    def maps(batch: int) -> list[Tensor]:
        return [torch.randn(batch, channels, 4, 4) for channels in (5, 3, 4)]

    torch.manual_seed(0)
    part = trace_part(function, maps(1), ["kinds", "colours", "geometry"], [{0: BATCH}] * 3, list("ocbs"))
    check(part, function, maps(1), maps(6))


def classifier(size: int = 8) -> NoisyClassifier:
    config = ClassifierConfig(
        classes=5, size=size, in_channels=2, channels=8, multipliers=(1, 2), attention=(), heads=2
    )
    guide: NoisyClassifier = frozen(NoisyClassifier(config))
    return guide


def labelled(batch: int, size: int = 8) -> list[Tensor]:
    """x, t, label and the scale."""
    x = torch.randn(batch, 2, size, size)
    return [x, torch.rand(batch) * 900, torch.randint(0, 5, (batch,)), torch.tensor(2.5)]


def test_the_gradient_of_a_classifier() -> None:
    guide = classifier()

    def function(x: Tensor, t: Tensor, label: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return (classifier_guidance(guide, x, t, label, scale=scale),)

    axes: Axes = [{0: BATCH}, {0: BATCH}, {0: BATCH}, {}]
    part = trace_part(function, labelled(1), ["x", "t", "label", "scale"], axes, ["score"])
    assert part.gradient
    assert part.outputs == {"score": ("batch", 2, 8, 8)}
    check(part, function, labelled(1), labelled(2), labelled(3), labelled(20))


@pytest.mark.slow
@pytest.mark.parametrize("new_order", [False, True])
def test_the_gradient_of_the_released_classifier(new_order: bool) -> None:
    trunk = UNetShape(
        in_channels=2,
        out_channels=2,
        channels=8,
        widths=(8, 16),
        blocks=1,
        depths=(0, 1),
        heads=(2, 2),
        groups=4,
        scale_shift=True,
        resblock_updown=True,
        new_attention_order=new_order,
    )
    guide = frozen(ReleasedClassifier(ClassifierShape(trunk=trunk, classes=5, size=8, pool_heads=2)))

    def function(x: Tensor, t: Tensor, label: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return (classifier_guidance(guide, x, t, label, scale=scale),)

    axes: Axes = [{0: BATCH}, {0: BATCH}, {0: BATCH}, {}]
    part = trace_part(function, labelled(2), ["x", "t", "label", "scale"], axes, ["score"])
    check(part, function, labelled(1), labelled(3))


@pytest.mark.slow
def test_a_step_with_two_kinds_of_guidance() -> None:
    denoiser, guide = unet(), classifier()
    schedule = linear()
    table = ddim(schedule, steps=4)

    def function(
        x: Tensor, tokens: Tensor, label: Tensor, scale: Tensor, index: Tensor, slots: Tensor, matrix: Tensor
    ) -> tuple[Tensor, ...]:
        scheduler = replace(table.scheduler, matrix=matrix)
        t = scheduler.t.index_select(0, index).float()
        cond = predict(denoiser, x, t, Condition(tokens=tokens))
        uncond = predict(denoiser, x, t, Condition(tokens=torch.zeros_like(tokens[:1])))
        guided = classifier_free_guidance(cond, uncond, scale=scale)
        score = classifier_guidance(guide, x, t, label, scale=scale)
        shifted = shift_eps(guided, score, x, t, schedule)
        moved = step(scheduler, x, shifted, SchedulerState(index, slots), t)
        return moved.x, moved.state.index, moved.state.slots

    def inputs(batch: int, tokens: int, index: int) -> list[Tensor]:
        x, _, label, scale = labelled(batch)
        kept = table.state.sized_slots(x)
        row = torch.tensor([index])
        return [x, torch.randn(batch, tokens, 6), label, scale, row, kept, table.scheduler.matrix]

    axes: Axes = [
        {0: BATCH},
        {0: BATCH, 1: TOKENS},
        {0: BATCH},
        {},
        {},
        {1: BATCH},
        {0: Axis("rows")},
    ]
    names = ["x", "tokens", "label", "scale", "index", "slots", "matrix"]
    part = trace_part(function, inputs(2, 3, 0), names, axes, ["next_x", "next_index", "next_slots"])
    assert part.gradient
    assert part.outputs["next_slots"] == (4, "batch", 2, 8, 8)
    check(part, function, inputs(1, 2, 0), inputs(3, 7, 3))


@pytest.mark.slow
def test_a_gradient_through_a_whole_unet() -> None:
    denoiser = unet()

    def function(x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = predict(denoiser, leaf, t, Condition(tokens=tokens, mask=mask)).value
            (gradient,) = torch.autograd.grad((leaf - out).square().mean((1, 2, 3)).sum(), leaf)
        return (out.detach() - scale * gradient,)

    def inputs(*sizes: int) -> list[Tensor]:
        return [*samples(*sizes), torch.tensor(3.0)]

    part = trace_part(function, inputs(2, 8, 8), [*SAMPLE_NAMES, "scale"], [*SAMPLE_AXES, {}], ["out"])
    assert part.outputs == {"out": ("batch", 2, "height", "width")}
    check(part, function, inputs(1), inputs(3, 4, 10, 2), inputs(2, 16, 6, 9))


class Convolutional(nn.Module):
    """What a classifier of another make may hold: depthwise convolutions, batch norm, pools, resizes, indices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AvgPool2d(3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)
        self.order = torch.tensor([3, 1, 1, 0, 7, 6, 5, 2])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = F.relu6(self.norm(self.stem(x)))
        h = F.leaky_relu(self.depthwise(F.pad(h, (1, 1, 1, 1))))
        h = torch.tanh(self.up(self.pool(h)))
        h = F.interpolate(self.mean(h), scale_factor=2.0, mode="bilinear")[:, self.order]
        h = torch.sigmoid(h[:, :, ::2]) * F.softplus(h[:, :, 1::2]) / (1 + h.std(1, keepdim=True)[:, :, ::2])
        logits: Tensor = self.head(h.mean((2, 3))) + torch.sin(t)[:, None]
        return logits


@pytest.mark.slow
def test_the_gradient_of_a_convolutional_classifier() -> None:
    guide = frozen(Convolutional()).requires_grad_(True)  # no gradient of these is asked for

    def function(x: Tensor, t: Tensor, label: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return (classifier_guidance(guide, x, t, label, scale=scale),)

    sides = {2: Axis("height", 16, 256, 16), 3: Axis("width", 16, 256, 16)}
    axes: Axes = [{0: BATCH, **sides}, {0: BATCH}, {0: BATCH}, {}]
    part = trace_part(function, labelled(2, 16), ["x", "t", "label", "scale"], axes, ["score"])
    assert part.inputs["x"] == ("batch", 2, "height", "width")
    check(part, function, labelled(1, 16), labelled(3, 32))


def half(x: Tensor) -> tuple[Tensor, ...]:
    """A part that is quick to trace."""
    return (x @ WEIGHT * 0.5,)


WEIGHT = torch.randn(4, 300)
ROWS: Axes = [{0: BATCH}]


def test_weights_are_initialisers_and_nothing_of_this_machine_is_inside() -> None:
    part = trace_part(half, [torch.randn(3, 4)], ["x"], ROWS, ["y"])
    assert list(part.inputs) == ["x"]
    assert part.weight_bytes >= WEIGHT.nbytes
    data = part.to_bytes()
    for told in (Path(__file__).name, str(Path.cwd()), "torch", "stack_trace"):
        assert told.encode() not in data
    assert part.model.opset_imports == {"": 20}
    assert not part.model.functions


def test_a_number_is_baked_in_and_a_tensor_is_not() -> None:
    scale = 3.0

    def function(x: Tensor, by: Tensor, unused: Tensor) -> tuple[Tensor, ...]:
        return (x * scale * by,)

    def inputs(by: float) -> list[Tensor]:
        return [torch.randn(2, 3), torch.tensor(by), torch.randn(1)]

    part = trace_part(function, inputs(1.0), ["x", "by", "unused"], [{0: BATCH}, {}, {}], ["out"])
    assert list(part.inputs) == ["x", "by", "unused"]
    check(part, function, inputs(1.0), inputs(-2.0))


def test_outputs_that_are_inputs_or_each_other() -> None:
    def function(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        y = x + t
        return x, y, y, t

    part = trace_part(function, [torch.randn(3, 2), torch.randn(1)], ["x", "t"], [{0: BATCH}, {}], ["a", "b", "c", "d"])
    check(part, function, [torch.randn(5, 2), torch.randn(1)])


SQUARE = torch.randn(4, 4)


def without_autocast(x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        nearest = (2 * x @ SQUARE).argmin(1).reshape(-1, 1)
    return (SQUARE[nearest].reshape(-1, 2, 2),)


def with_gradients_on(x: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        y = (x @ SQUARE).reshape(-1, 2)
    with torch.inference_mode():
        return y.detach() * 2, (x * 2).reshape(-1, 2)


def mapped(x: Tensor) -> tuple[Tensor, ...]:
    return (torch.vmap(lambda row: torch.stack([row @ SQUARE, row.cos()]))(x),)


def with_a_tensor_of_its_own(x: Tensor) -> tuple[Tensor, ...]:
    return (x.index_select(1, torch.tensor([2, 0])),)


@pytest.mark.parametrize("function", [without_autocast, with_gradients_on, mapped, with_a_tensor_of_its_own])
def test_contexts_inside_a_part(function: Function) -> None:
    outputs = [f"y{i}" for i in range(len(function(torch.randn(3, 4))))]
    part = trace_part(function, [torch.randn(3, 4)], ["x"], ROWS, outputs)
    assert not part.gradient
    check(part, function, [torch.randn(3, 4)], [torch.randn(5, 4)])


def test_autocast_inside_a_part_casts_as_in_torch() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.float16):
            rounded = x @ SQUARE
            with torch.autocast("cpu", enabled=False):
                return rounded, x @ SQUARE

    part, x = trace_part(function, [torch.randn(3, 4)], ["x"], ROWS, ["rounded", "exact"]), torch.randn(5, 4)
    (rounded, exact), expected = run(part, [x]), function(x)
    assert (rounded.dtype, exact.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(rounded, expected[0].numpy(), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(exact, expected[1].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_operators_that_change_their_arguments(with_gradient: bool) -> None:
    def change(x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1] = 3.0
        y += 1
        return y * x

    function: Function = gradient_of(change) if with_gradient else lambda x: (change(x),)
    part = trace_part(function, [torch.randn(3, 4)], ["x"], ROWS, ["y"])
    check(part, function, [torch.randn(3, 4)], [torch.randn(5, 4)])


def test_numbers_and_integers_are_cast_as_in_torch() -> None:
    def function(x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return x * n + 1, n / 2, (n > 1) * x, torch.where(n > 1, n, 0.5), torch.where(n > 1, 0.5, n)

    part = trace_part(
        function, [torch.randn(3, 2), torch.ones(3, 2, dtype=torch.int64)], ["x", "n"], [{0: BATCH}] * 2, [*"abcde"]
    )
    check(part, function, [torch.randn(4, 2), torch.arange(8).reshape(4, 2)])


def test_names_that_torch_uses_too() -> None:
    part = trace_part(half, [torch.randn(3, 4)], ["t"], ROWS, ["mul"])
    assert (list(part.inputs), list(part.outputs)) == (["t"], ["mul"])
    check(part, half, [torch.randn(2, 4)])


def test_a_free_axis_can_be_fixed_by_name() -> None:
    part = trace_part(half, [torch.randn(3, 4)], ["x"], ROWS, ["y"])
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 7)
    session = ort.InferenceSession(part.to_bytes(), options, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [7, 4]


def test_saving_with_weights_inside_and_beside(tmp_path: Path) -> None:
    part, x = trace_part(half, [torch.randn(3, 4)], ["x"], ROWS, ["y"]), torch.randn(2, 4)
    path = tmp_path / "half.onnx"
    for limit, files in ((0, ["half.onnx", "half.onnx.data"]), (1 << 20, ["half.onnx"])):
        assert [file.name for file in save_part(part, path, embedded_limit=limit)] == files
        assert sorted(file.name for file in tmp_path.iterdir()) == files
        (actual,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
        np.testing.assert_allclose(actual, half(x)[0].numpy(), rtol=1e-5, atol=1e-6)
    check(part, half, [x])  # saving leaves the part as it was


def test_more_weights_than_one_message_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = trace_part(half, [torch.randn(3, 4)], ["x"], ROWS, ["y"])
    monkeypatch.setattr("guidegraph.graph.export.onnx.model.EMBEDDED_LIMIT", WEIGHT.nbytes)
    with pytest.raises(ExportError, match="do not fit one ONNX message; use save_part"):
        part.to_bytes()
    assert len(save_part(part, tmp_path / "half.onnx", embedded_limit=1 << 40)) == 2


def refused(function: Function, inputs: Sequence[Tensor], axes: Sequence[Mapping[int, Axis]]) -> ExportError:
    names = [f"input_{i}" for i in range(len(inputs))]
    with pytest.raises(ExportError) as caught:
        trace_part(function, inputs, names, axes, ["out"])
    assert "\n" not in str(caught.value)
    return caught.value


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return f"{HERE}:{number}"


def gradient_of(function: Callable[[Tensor], Tensor]) -> Function:
    """x to the gradient of the function's sum at x."""

    def gradient(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(function(leaf).sum(), leaf)  # taken here

    return gradient


def branching(x: Tensor) -> Tensor:
    if x.sum() > 0:  # branch on a value
        return x * x
    return x.exp()


def by_item(x: Tensor) -> Tensor:
    return x.square() * (1 if x[0, 0].item() > 2 else 3)  # branch on an item


def by_numpy(x: Tensor) -> Tensor:
    return x.square() * torch.from_numpy(x.detach().numpy() + 1)  # through NumPy


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize(
    ("function", "mark", "reason"),
    [
        (branching, "branch on a value", "a tensor's value decides what happens here"),
        (by_item, "branch on an item", "a tensor's value decides what happens here"),
        (by_numpy, "through NumPy", "it hands a tensor to NumPy"),
    ],
)
def test_what_cannot_be_traced(
    function: Callable[[Tensor], Tensor], mark: str, reason: str, with_gradient: bool
) -> None:
    whole: Function = gradient_of(function) if with_gradient else lambda x: (function(x),)
    error = refused(whole, [torch.randn(3, 4)], ROWS)
    assert error.place == line_of(mark)
    assert reason in error.reason
    assert "host=True" in error.remedy


def by_size(x: Tensor) -> Tensor:
    return x.square() if x.shape[0] > 2 else x.exp()  # branch on a size


def by_length(x: Tensor) -> Tensor:
    return (x * len(list(x))).square()  # the length


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize(("function", "mark"), [(by_size, "branch on a size"), (by_length, "the length")])
def test_what_holds_for_some_sizes_alone(function: Callable[[Tensor], Tensor], mark: str, with_gradient: bool) -> None:
    whole: Function = gradient_of(function) if with_gradient else lambda x: (function(x),)
    error = refused(whole, [torch.randn(3, 4)], ROWS)
    assert "it holds only where" in error.reason
    assert "batch" in error.reason
    assert error.place == line_of(mark)


def test_random_numbers_are_refused() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (x + torch.randn_like(x),)  # a draw

    error = refused(function, [torch.randn(3, 4)], ROWS)
    assert (error.place, error.operator) == (line_of("a draw"), "aten.randn_like")
    assert "noise.gaussian" in error.remedy


def exotic(x: Tensor) -> Any:
    return torch.special.bessel_j0(x)  # a Bessel function


def warped(x: Tensor) -> Tensor:
    grid = torch.linspace(-1, 1, 8).reshape(1, 2, 2, 2)
    return F.grid_sample(x.reshape(1, 1, 3, 4), grid, align_corners=False)


def test_an_operator_without_onnx_form() -> None:
    error = refused(lambda x: (exotic(x),), [torch.randn(3, 4)], ROWS)
    assert (error.operator, error.place) == ("aten.special_bessel_j0", line_of("a Bessel function"))
    assert "has no ONNX form" in error.reason
    assert "register_decomposition(torch.ops.aten.special_bessel_j0.default)" in error.remedy


def test_without_the_packages_of_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegraph.graph.export.onnx.trace.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="onnx and onnxscript not installed; install it: pip install"):
        trace_part(half, [torch.randn(3, 4)], ["x"], ROWS, ["y"])


def test_a_gradient_without_onnx_form() -> None:
    error = refused(gradient_of(warped), [torch.randn(3, 4)], [{}])
    assert (error.operator, error.place) == ("aten.grid_sampler_2d_backward", line_of("taken here"))
    assert "register_decomposition(torch.ops.aten.grid_sampler_2d_backward.default)" in error.remedy


@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_plugin_adds_a_decomposition(with_gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegraph.graph.export.onnx.decompositions._table", {})

    @register_decomposition(torch.ops.aten.special_bessel_j0.default)
    def bessel(x: Tensor) -> Tensor:
        """A stand-in that tells itself apart."""
        return x + 1000

    def function(x: Tensor) -> tuple[Tensor, ...]:
        (factor,) = gradient_of(torch.square)(x) if with_gradient else (2 * x,)
        return (factor * torch.special.bessel_j0(x.detach()),)

    part = trace_part(function, [torch.randn(3, 4)], ["x"], ROWS, ["y"])
    assert part.gradient == with_gradient
    check(part, lambda x: (2 * x * (x + 1000),), [torch.randn(2, 4)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["x", "y"]}, "1 inputs have 2 names"),
        ({"axes": [{2: BATCH}]}, "has no axis 2"),
        ({"axes": [{0: BATCH, 1: BATCH}]}, "axis 'batch' has size 3 and, in input 'x', 4"),
        ({"axes": [{0: BATCH, 1: Axis("batch", max=8)}]}, "declared twice"),
        ({"axes": [{0: Axis("batch", multiple_of=2)}]}, "size 3 along axis 0, which is not a size of"),
        ({"output_names": ["x"]}, "need different names"),
        ({"output_names": ["y", "z"]}, "gives 1 tensors and 2 names"),
    ],
)
def test_names_and_axes_must_fit(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"names": ["x"], "axes": ROWS, "output_names": ["y"]} | change
    with pytest.raises(ValueError, match=message):
        trace_part(half, [torch.randn(3, 4)], **arguments)


@pytest.mark.parametrize(("name", "low", "high", "multiple"), [("a b", 1, 8, 1), ("a", 1, 1, 1), ("a", 1, 7, 4)])
def test_axes_that_cannot_be(name: str, low: int, high: int, multiple: int) -> None:
    with pytest.raises(ValueError, match=r"named by letters|allows no two sizes"):
        Axis(name, low, high, multiple)


def test_traces_of_several_threads_leave_torch_as_it_was() -> None:
    before = proxy_tensor._extract_tensor_metadata
    first_runs, second_runs, first_ended = threading.Event(), threading.Event(), threading.Event()

    def first(x: Tensor) -> tuple[Tensor, ...]:
        if not has_values(x):
            first_runs.set()
            second_runs.wait(0.3)  # in vain: the second trace begins when this one has ended
        return (x + 1,)

    def second(x: Tensor) -> tuple[Tensor, ...]:
        if not has_values(x):
            second_runs.set()
            first_ended.wait(10)
        return (x + 2,)

    def trace_first() -> None:
        trace_part(first, [torch.ones(2)], ["x"], [{}], ["y"])
        first_ended.set()

    with ThreadPoolExecutor() as threads:
        tracing = threads.submit(trace_first)
        assert first_runs.wait(10)
        trace_part(second, [torch.ones(2)], ["x"], [{}], ["y"])
        tracing.result()
    assert proxy_tensor._extract_tensor_metadata is before


def test_the_operators_that_torch_can_convert_are_all_listed() -> None:
    quick, complete = onnx_registry(), ONNXRegistry.from_torchlib(opset_version=OPSET)

    def list_functions(registry: ONNXRegistry) -> dict[Any, list[tuple[Any, bool]]]:
        return {
            operator: [(conversion.onnx_function, conversion.is_complex) for conversion in conversions]
            for operator, conversions in registry.functions.items()
        }

    assert list_functions(quick) == list_functions(complete)

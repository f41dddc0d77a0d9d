"""guided-diffusion's checkpoints: every released shape loads, with the outputs of the reference implementation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.conditioning.condition import merge_conditions, spatial_condition
from guidegraph.nodes.conditioning.label import embed_label
from guidegraph.nodes.guidance.guidance import classifier_guidance
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.types import Condition
from guidegraph_families.guided_diffusion import (
    build_schedule,
    is_guided_diffusion,
    load_guided_diffusion,
    resolve_heads_and_schedule,
)
from guidegraph_families.parts.infer_unet import infer_structure
from plugins.families.tests.guided import guided_reference as reference

OPTIONS = LoadOptions("legacy", 4, None, "linear")
SETTINGS: dict[str, Any] = {"attention": "legacy", "heads": 4, "noise_schedule": "linear"}


def load(tensors: dict[str, torch.Tensor], options: LoadOptions = OPTIONS, device: str = "cpu") -> dict[str, Any]:
    with use_device(device, "float32"):
        return load_guided_diffusion(tensors, Path("a.pt"), options)


@pytest.mark.parametrize("name", [*reference.RELEASED, *reference.CLASSIFIERS])
def test_released_shapes_load_with_no_key_missing_or_left_over(name: str) -> None:
    judge = name in reference.CLASSIFIERS
    flags = (reference.CLASSIFIERS if judge else reference.RELEASED)[name]
    tensors = reference.state(flags, judge=judge)
    assert is_guided_diffusion(tensors)
    parts = load(tensors, LoadOptions(), "meta")
    held: dict[str, torch.Tensor] = {}
    for module in (parts.get("classifier"), getattr(parts.get("denoiser"), "network", None), parts.get("label")):
        held |= {} if module is None else module.state_dict()
    assert held.keys() == tensors.keys()
    assert all(held[key].shape == tensors[key].shape for key in tensors)
    if judge:
        classifier = parts["classifier"]
        assert (classifier.size, classifier.classes) == (flags.image_size, 1000)
        assert not classifier.shape.new_attention_order
        assert all(width // heads == 64 for width, heads in levels(classifier.shape))
        return
    shape = parts["denoiser"].network.shape
    assert shape.new_attention_order == flags.use_new_attention_order
    assert (shape.in_channels, shape.spatial_channels) == (3, 3 if flags.upsampler else 0)
    assert shape.out_channels == 2 * shape.in_channels  # a learned variance
    assert shape.classes == (1000 if flags.class_cond else None)
    for width, heads in levels(shape):
        assert heads == (flags.num_heads if flags.num_head_channels == -1 else width // flags.num_head_channels)
    _, schedule = resolve_heads_and_schedule(infer_structure(tensors, "a.pt"), "a.pt", LoadOptions())
    last = build_schedule(schedule).alphas_bar[-1].item()
    cosine = name.startswith("64x64")
    assert last == pytest.approx(2.4e-9 if cosine else 4.036e-5, rel=0.02)


def levels(shape: Any) -> list[tuple[int, int]]:
    """Width and heads of each level with attention."""
    return [(w, h) for w, h, depth in zip(shape.widths, shape.heads, shape.depths, strict=True) if depth]


@pytest.mark.parametrize("class_cond", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("order", ["legacy", "new"])
def test_outputs_are_those_of_the_published_blocks(
    order: Any, updown: bool, scale_shift: bool, class_cond: bool
) -> None:
    flags = reference.small(
        use_new_attention_order=order == "new",
        resblock_updown=updown,
        use_scale_shift_norm=scale_shift,
        class_cond=class_cond,
    )
    tensors = reference.state(flags, device="cpu")
    parts = load(tensors, LoadOptions(order, 4, None, "linear"))
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([999.0, 13.0]), torch.tensor([6, 2])
    expected = reference.unet(reference.weights_of(tensors), x, t, flags, y)
    condition = embed_label(parts["label"], y) if class_cond else Condition()
    actual = predict(parts["denoiser"], x, t, condition)
    assert actual.kind == "eps"
    assert expected.std() > 0.1
    torch.testing.assert_close(actual.value, expected[:, :3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.variance, expected[:, 3:], atol=1e-5, rtol=1e-5)
    other = load(tensors, LoadOptions("legacy" if order == "new" else "new", 4, None, "linear"))
    assert (predict(other["denoiser"], x, t, condition).value - expected[:, :3]).abs().max() > 1e-3


@pytest.mark.parametrize("head_channels", [8, 16])
def test_heads_of_a_width_and_three_levels(head_channels: int) -> None:
    flags = reference.small(
        num_head_channels=head_channels, channel_mult=(0.5, 1, 2), num_channels=64, attention_resolutions=(8, 4)
    )
    tensors = reference.state(flags, device="cpu")
    parts = load(tensors, LoadOptions("legacy", None, head_channels, "cosine"))
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500.0])
    expected = reference.unet(reference.weights_of(tensors), x, t, flags)
    torch.testing.assert_close(predict(parts["denoiser"], x, t).value, expected[:, :3], atol=1e-5, rtol=1e-5)


def test_an_upsampler_takes_the_small_picture_as_a_spatial_condition() -> None:
    flags = reference.small(upsampler=True, class_cond=True)
    tensors = reference.state(flags, device="cpu")
    parts = load(tensors)
    x, t, low = torch.randn(2, 3, 16, 16), torch.tensor([7.0, 70.0]), torch.randn(2, 3, 4, 4)
    y = torch.tensor([1, 5])
    enlarged = torch.nn.functional.interpolate(low, (16, 16), mode="bilinear")
    expected = reference.unet(reference.weights_of(tensors), torch.cat([x, enlarged], 1), t, flags, y)
    picture = spatial_condition([low], size=16, mode="bilinear")
    actual = predict(parts["denoiser"], x, t, merge_conditions([embed_label(parts["label"], y), picture]))
    torch.testing.assert_close(actual.value, expected[:, :3], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes a spatial condition of 3 channels, and got none"):
        predict(parts["denoiser"], x, t, embed_label(parts["label"], y))


@pytest.mark.parametrize("updown", [False, True])
def test_a_classifier_gives_the_published_logits_and_its_gradient(updown: bool) -> None:
    flags = reference.small(
        num_channels=64, num_head_channels=64, num_res_blocks=2, channel_mult=(1, 1, 2), resblock_updown=updown
    )
    tensors = reference.state(flags, judge=True, device="cpu")
    classifier = load(tensors, LoadOptions())["classifier"]
    assert (classifier.size, classifier.classes, classifier.shape.blocks) == (16, 7, 2)
    x, t = torch.randn(2, 3, 16, 16, requires_grad=True), torch.tensor([0.0, 640.0])
    expected = reference.classifier(reference.weights_of(tensors), x, t, flags)
    assert expected.std() > 0.05
    torch.testing.assert_close(classifier(x.detach(), t), expected.detach(), atol=1e-5, rtol=1e-5)
    label = torch.tensor([4, 0])
    (gradient,) = torch.autograd.grad(torch.log_softmax(expected, 1)[[0, 1], label].sum(), x)
    score = classifier_guidance(classifier, x.detach(), t, label, scale=2.0)
    torch.testing.assert_close(score, 2 * gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["adaptive", "spatial", "spatial_v2"])
@pytest.mark.parametrize("updown", [False, True])
def test_a_classifier_with_another_pool_gives_the_published_logits_at_any_size(pool: str, updown: bool) -> None:
    flags = reference.small(
        num_channels=64, num_head_channels=64, num_res_blocks=2, channel_mult=(1, 1, 2), resblock_updown=updown
    )
    flags = replace(flags, classifier_pool=pool)
    tensors = reference.state(flags, judge=True, device="cpu")
    classifier = load(tensors, LoadOptions())["classifier"]
    assert (classifier.size, classifier.classes) == (None, 7)
    t = torch.tensor([0.0, 640.0])
    for size in (16, 24):
        x = torch.randn(2, 3, size, size)
        at_size = replace(flags, image_size=size, attention_resolutions=(size // 2,))
        expected = reference.classifier(reference.weights_of(tensors), x, t, at_size)
        assert expected.std() > 0.02
        torch.testing.assert_close(classifier(x, t), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        ValueError, match="this classifier takes pictures whose sides are multiples of 4; found 18 × 16"
    ):
        classifier(torch.randn(2, 3, 18, 16), t)


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_names_of_data_parallel_training_are_read(tmp_path: Path, wrapper: str | None) -> None:
    flags = reference.small(class_cond=True)
    plain = reference.state(flags, device="cpu")
    tensors = {f"module.{name}": value for name, value in plain.items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors}, tmp_path / "parallel.pt")
    assert read_tensors(tmp_path / "parallel.pt").keys() == plain.keys()
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "mixed.pt")
    assert set(read_tensors(tmp_path / "mixed.pt")) == {"module.a", "b"}


def test_settings_of_latents_are_refused_for_models_of_pixels(tmp_path: Path) -> None:
    tensors = reference.state(reference.small())
    with pytest.raises(ValueError, match="without latents: leave scale, config out"):
        load(tensors, replace(OPTIONS, scale=0.5, config=tmp_path), "meta")


def test_a_file_is_identified_by_content_and_missing_parts_raise_errors(tmp_path: Path) -> None:
    flags = reference.small(class_cond=True)
    tensors = reference.state(flags, device="cpu")
    torch.save(tensors, tmp_path / "diffusion.anything")
    checkpoint = load_checkpoint(path=tmp_path / "diffusion.anything", **SETTINGS)
    x, t, y = torch.randn(1, 3, 16, 16), torch.tensor([3.0]), torch.tensor([2])
    actual = predict(checkpoint.denoiser, x, t, embed_label(checkpoint.label, y))
    expected = reference.unet(reference.weights_of(tensors), x, t, flags, y)
    torch.testing.assert_close(actual.value, expected[:, :3], atol=1e-5, rtol=1e-5)
    assert checkpoint.schedule.train_steps == 1000
    with pytest.raises(ValueError, match="has no part 'classifier'; it has label, denoiser, schedule"):
        checkpoint.classifier(x, t)


def test_a_model_without_a_null_class_refuses_it() -> None:
    parts = load(reference.state(reference.small(class_cond=True), device="cpu"))
    with pytest.raises(ValueError, match=r"knows 7 classes and was trained without a null class: .* 0 … 6"):
        embed_label(parts["label"])
    with pytest.raises(ValueError, match="was trained with 7 classes and has no null class"):
        predict(parts["denoiser"], torch.zeros(1, 3, 16, 16), torch.zeros(1))


def test_settings_that_tensors_do_not_show_must_be_set() -> None:
    tensors = reference.state(reference.small())
    with pytest.raises(
        ValueError, match=r"none of its released shapes .*tell attention, noise_schedule, heads or head_"
    ):
        load(tensors, LoadOptions(), "meta")
    with pytest.raises(ValueError, match=r"do not tell attention: set them"):
        load(tensors, LoadOptions(heads=4, noise_schedule="cosine"), "meta")
    with pytest.raises(ValueError, match=r"'a\.pt': 5 heads do not share 64 channels"):
        load(tensors, LoadOptions("legacy", 5, None, "linear"), "meta")
    with pytest.raises(ValueError, match="not both"):
        LoadOptions(heads=4, head_channels=8)
    with pytest.raises(ValueError, match="takes no text: leave tokenizer out"):
        load(tensors, LoadOptions("legacy", 4, None, "linear", tokenizer=Path("words")), "meta")


def test_a_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    complete = reference.state(reference.small(), device="cpu")
    for change, message in (
        ({"out.0.weight": None}, r"1 missing: out\.0\.weight"),
        ({"out.9.weight": torch.zeros(1)}, r"1 left over: out\.9\.weight"),
        ({"out.0.bias": torch.zeros(3)}, r"of another shape: out\.0\.bias \(3,\) for \(32,\)"),
        ({"time_embed.0.weight": None}, "no known layout"),
        ({"input_blocks.2.0.in_layers.2.weight": None}, r"input_blocks\.2\.0\.in_layers\.2\.weight is missing"),
        ({"input_blocks.3.0.in_layers.2.weight": torch.zeros(96, 64, 3, 3)}, "of another shape: input_blocks"),
    ):
        tensors = {name: tensor for name, tensor in (complete | change).items() if tensor is not None}  # type: ignore[dict-item]
        torch.save(tensors, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=message) as caught:
            load_checkpoint(path=tmp_path / "a.pt", **SETTINGS)
        assert str(tmp_path / "a.pt") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_are_cast_as_they_load(tmp_path: Path) -> None:
    tensors = reference.state(reference.small(), device="cpu")
    torch.save(tensors, tmp_path / "a.pt")
    with use_device("cpu", "bfloat16"):
        parts = load_guided_diffusion(read_tensors(tmp_path / "a.pt"), tmp_path / "a.pt", OPTIONS)
    denoiser = parts["denoiser"]
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert not any(module.training for module in denoiser.modules())
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500.0])
    exact = reference.unet(reference.weights_of(tensors), x, t, reference.small())[:, :3]
    actual = predict(denoiser, x, t).value
    assert actual.dtype == torch.float32
    assert (actual - exact).norm() < 0.05 * exact.norm()


def test_a_folder_and_a_file_of_no_known_layout_are_one_error(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no known layout \(.*guided-diffusion.*\); found 1 tensors: conv\.weight"):
        load_checkpoint(path=tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"is a folder of no known layout .*; found a\.pt"):
        load_checkpoint(path=tmp_path)


def test_the_last_alpha_bar_is_that_of_the_published_betas() -> None:
    schedule = load(reference.state(reference.small(), device="cpu"))["schedule"]
    product = math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000))
    assert schedule.alphas_bar[-1].item() == pytest.approx(product, rel=1e-9)

"""Forms that graphs have for speed: of attention, of norms with a scale and a shift, of upsampling, of gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from guidegraph.graph.export.onnx.affine import join_affine_steps  # noqa: E402
from guidegraph.graph.export.onnx.program import attend  # noqa: E402
from guidegraph.graph.export.onnx.simplify import join_upsampling  # noqa: E402
from guidegraph.graph.export.onnx.trace import Axis, TracedPart, trace_part  # noqa: E402

Function = Callable[..., Tensor]

BATCH = Axis("batch", max=64)
HEIGHT, WIDTH = (Axis(name, min=2, max=64, multiple_of=2) for name in ("height", "width"))
PICTURE_AXES = {0: BATCH, 2: HEIGHT, 3: WIDTH}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def conv(*args: Any, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **options).requires_grad_(False)


def norm(channels: int) -> nn.GroupNorm:
    module = nn.GroupNorm(2, channels).requires_grad_(False)
    module.weight.copy_(normal(channels))
    module.bias.copy_(normal(channels, seed=1))
    return module


def upsample(x: Tensor, factor: float = 2.0, mode: str = "nearest") -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode=mode)


def export(function: Function, inputs: Sequence[Tensor], sizes: Sequence[dict[int, Axis]]) -> TracedPart:
    names = [f"in{i}" for i in range(len(inputs))]
    return trace_part(lambda *tensors: (function(*tensors),), inputs, names, sizes, ["out"])


def check(part: TracedPart, function: Function, inputs: Sequence[Tensor]) -> None:
    """The graph agrees with the function within 1e-5 of the largest value."""
    session = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}
    named = {name: tensor.numpy() for name, tensor in zip(part.inputs, inputs, strict=True) if name in read}
    (actual,) = session.run(None, named)
    expected = function(*inputs)
    assert actual.shape == tuple(expected.shape)
    assert np.abs(actual - expected.numpy()).max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def count(part: TracedPart) -> Counter[str]:
    return Counter(node.op_type for node in part.model.graph)


HIDDEN_ROWS = torch.tensor([[True, False, True, False, True]] * 4 + [[False] * 5] * 2)[None, None]
HIDDEN_KEYS = torch.tensor([[True, True, False, False, True], [False] * 5])[:, None, None]
ADDED = normal(6, 5).masked_fill(~HIDDEN_ROWS[0, 0], -torch.inf)

MASKS: dict[str, Tensor | None] = {
    "none": None,
    "keys": HIDDEN_KEYS,
    "queries": HIDDEN_ROWS,
    "both": HIDDEN_KEYS & HIDDEN_ROWS,
    "plain rows": HIDDEN_ROWS[0, 0],
    "added": ADDED,
    "lowest": torch.tensor([-torch.inf, *[torch.finfo(torch.float32).min] * 4]).expand(6, 5),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_equals_torchs(name: str, scale: float | None) -> None:
    q, k, v, mask = normal(2, 3, 6, 4), 3 * normal(2, 3, 5, 4), normal(2, 3, 5, 7), MASKS[name]
    expected = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    torch.testing.assert_close(attend(q, k, v, mask, scale=scale), expected)


@pytest.mark.parametrize(
    "options", [{"dropout_p": 0.1}, {"is_causal": True}, {"enable_gqa": True}], ids=["dropout", "causal", "grouped"]
)
def test_other_attention_is_left_to_torch(options: dict[str, Any]) -> None:
    assert attend(normal(1, 2, 3, 4), normal(1, 2, 3, 4), normal(1, 2, 3, 4), **options) is NotImplemented


@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True, "scale": 0.3}])
def test_torchs_attention_is_exported_too(options: dict[str, Any]) -> None:
    def attend_heads(q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k.flip(-1), **options)

    axes = {0: BATCH, 2: Axis("tokens", max=64)}
    part = export(attend_heads, [normal(2, 4, 5, 4), normal(2, 4, 5, 4, seed=1)], [axes, axes])
    check(part, attend_heads, [normal(1, 4, 7, 4), normal(1, 4, 7, 4, seed=1)])


def test_the_lowest_float16_of_a_mask_hides_no_query() -> None:
    q, k, v = torch.full((1, 1, 2, 4), -8.0).half(), torch.full((1, 1, 3, 4), 8.0).half(), normal(1, 1, 3, 4).half()
    mask = torch.full((2, 3), torch.finfo(torch.float16).min, dtype=torch.float16)
    torch.testing.assert_close(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


@pytest.mark.parametrize("mask", [torch.tensor(False), torch.tensor(0.5), HIDDEN_ROWS[0, 0, 0], ADDED[0]])
def test_masks_of_fewer_axes_are_exported_too(mask: Tensor) -> None:
    def attend_tokens(q: Tensor, k: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # torch's other kernels refuse such masks
            return F.scaled_dot_product_attention(q, k, k.flip(-1), mask)

    part = export(attend_tokens, [normal(2, 3, 6, 4), normal(2, 3, 5, 4)], [{0: BATCH}, {0: BATCH}])
    check(part, attend_tokens, [normal(1, 3, 6, 4), normal(1, 3, 5, 4)])


def attend_keys(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, k.flip(-1), mask[:, None, None])


def test_a_graph_of_masked_attention_has_no_guards_and_one_transposition_of_the_keys() -> None:
    axes = {0: BATCH, 2: Axis("tokens", max=64)}
    mask_axes = {0: BATCH, 1: axes[2]}
    inputs = [normal(2, 3, 5, 4), normal(2, 3, 5, 4, seed=1), HIDDEN_KEYS[:, 0, 0]]
    part = export(attend_keys, inputs, [axes, axes, mask_axes])
    for batch, tokens in ((2, 5), (1, 5), (4, 9)):
        mask = torch.arange(tokens) < torch.arange(batch)[:, None]  # the first sample has no key
        check(part, attend_keys, [normal(batch, 3, tokens, 4), normal(batch, 3, tokens, 4, seed=1), mask])
    operators = count(part)
    assert operators["IsNaN"] == operators["Shape"] == 0
    assert operators["Transpose"] == 1


def differentiate_attention(x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        attended = F.scaled_dot_product_attention(x, x.flip(1), x * 2)
        return torch.autograd.grad(attended, x, attended.detach())[0]


def test_the_gradient_of_attention_broadcasts_nothing() -> None:
    part = export(differentiate_attention, [normal(2, 3, 5, 4)], [{0: BATCH, 2: Axis("tokens", max=64)}])
    for batch, tokens in ((1, 5), (4, 9)):
        check(part, differentiate_attention, [normal(batch, 3, tokens, 4)])
    assert count(part)["Expand"] == 0


NORM = norm(4)


def scale_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return NORM(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def test_a_norm_with_a_scale_and_a_shift_is_one_product_and_one_sum_of_the_picture() -> None:
    sizes = [PICTURE_AXES, {0: BATCH}, {0: BATCH}]
    part = export(scale_norm, [normal(2, 4, 6, 8), normal(2, 4), normal(2, 4, seed=1)], sizes)
    for batch in (1, 3):
        check(part, scale_norm, [normal(batch, 4, 6, 10), normal(batch, 4), normal(batch, 4, seed=1)])
    pictures = [n.op_type for n in part.model.graph if n.op_type in ("Mul", "Add") and _is_picture(n.outputs[0])]
    assert sorted(pictures) == ["Add", "Mul"]
    assert count(part)["BatchNormalization"] == 0


def _is_picture(value: Any) -> bool:
    return value.shape is not None and len(value.shape) == 4 and list(value.shape[2:]) != [1, 1]


def test_the_weight_and_bias_of_a_norm_are_one_operator() -> None:
    part = export(lambda x: F.silu(NORM(x)), [normal(2, 4, 6, 8)], [PICTURE_AXES])
    check(part, lambda x: F.silu(NORM(x)), [normal(3, 4, 4, 4)])
    operators = count(part)
    assert (operators["BatchNormalization"], operators["Add"], operators["Mul"]) == (1, 0, 1)  # x · σ(x)


def use_twice(x: Tensor, s: Tensor) -> Tensor:
    y = x * 2.5 * s[:, :, None, None]
    return y + s[:, :, None, None] + y.mean()


def spread_over_samples(x: Tensor, s: Tensor) -> Tensor:
    return x[:1] * s[:, :, None, None] + s[:, :, None, None] * s[:, :, None, None]


def add_a_row(x: Tensor, s: Tensor) -> Tensor:
    return (x * s[:, :, None, None] + x[:, :1, :1, :1]) * s[:, :, None, None] + x[:, :, :1]


def square_a_chain(x: Tensor, s: Tensor) -> Tensor:
    y = x * s[:, :, None, None] + s[:, :, None, None] * 2 - s[:, :1, None, None]
    return y * y


@pytest.mark.parametrize("function", [use_twice, spread_over_samples, add_a_row, square_a_chain])
def test_other_products_and_sums_keep_their_results(function: Function) -> None:
    part = export(function, [normal(2, 4, 6, 8), normal(2, 4)], [PICTURE_AXES, {0: BATCH}])
    for batch in (1, 3):
        check(part, function, [normal(batch, 4, 4, 6), normal(batch, 4)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2 / (x.abs() + 1e-9),
        lambda x: (1e-8 - x) * 1e8,
        lambda x: (x - 1e-12) * 1e12,
        lambda x: (x + 1) * 1.000001 - 1,
        lambda x: (x + 1) / 1.000001 - 1,
    ],
)
def test_small_summands_and_factors_near_one_are_kept(function: Function) -> None:
    x = torch.zeros(2, 3, 4, 4)
    part = export(function, [x], [PICTURE_AXES])
    (computed,) = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"]).run(
        None, {"in0": x.numpy()}
    )
    np.testing.assert_allclose(computed, function(x).numpy(), rtol=1e-6, atol=1e-9)


def test_a_result_inside_a_chain_is_kept() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        normed = NORM(x)
        return normed, NORM(normed) * normed[:, :, :1, :1]

    part = trace_part(function, [normal(2, 4, 6, 8)], ["x"], [PICTURE_AXES], ["normed", "again"])
    session, x = ort.InferenceSession(part.to_bytes(), providers=["CPUExecutionProvider"]), normal(3, 4, 2, 6)
    for actual, expected in zip(session.run(["normed", "again"], {"x": x.numpy()}), function(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), expected)


def test_a_chain_may_begin_with_the_result_of_another_one() -> None:
    first, second, third = (normal(4, 1, 1, seed=seed) for seed in range(3))

    def function(x: Tensor) -> Tensor:
        y = x * first + second
        return (y * second + third) * y.mean()

    part = export(function, [normal(2, 4, 6, 8)], [PICTURE_AXES])
    check(part, function, [normal(3, 4, 2, 6)])
    assert count(part)["BatchNormalization"] == 2


@pytest.mark.parametrize("is_free", [False, True])
def test_constants_of_all_channels_stand_for_each(is_free: bool) -> None:
    scale, shift = normal(1, 1, 1), normal(1, 1, 1, 1, seed=1)

    def function(x: Tensor) -> Tensor:
        return (x * scale + shift) * scale

    channels = {1: Axis("channels", max=16)} if is_free else {}
    part = export(function, [normal(2, 4, 6, 8)], [PICTURE_AXES | channels])
    check(part, function, [normal(3, 7 if is_free else 4, 2, 6)])
    assert count(part)["BatchNormalization"] == int(not is_free)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_upsampling_before_a_convolution_is_a_transposed_convolution(bias: bool, gradient: bool) -> None:
    after = conv(4, 6, 3, padding=1, bias=bias)

    def enlarge(x: Tensor) -> Tensor:
        enlarged: Tensor = after(upsample(x))
        return enlarged

    def differentiate(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            enlarged = enlarge(x)
            return torch.autograd.grad(enlarged, x, enlarged.detach())[0]

    function = differentiate if gradient else enlarge
    part = export(function, [normal(2, 4, 6, 8)], [PICTURE_AXES])
    for shape in ((1, 4, 2, 2), (3, 4, 6, 4)):
        check(part, function, [normal(*shape)])
    operators = count(part)
    assert (operators["ConvTranspose"], operators["Resize"], operators["Expand"]) == (1, 0, 0)
    assert operators["Conv"] == int(gradient)  # the gradient of one without a stride is plain


PLAIN = conv(4, 4, 3, padding=1)
OTHER_FACTOR: list[Function] = [lambda x: PLAIN(upsample(x, 3.0)), lambda x: PLAIN(upsample(x, mode="bilinear"))]
OTHER_CONVOLUTIONS = [
    conv(4, 4, 5, padding=2),
    conv(4, 4, 3),
    conv(4, 4, 3, padding=1, stride=2),
    conv(4, 4, 3, padding=2, dilation=2),
    conv(4, 4, 3, padding=1, groups=2),
]


def use_in_two_ways(x: Tensor) -> Tensor:
    return PLAIN(upsample(x)) + upsample(x)


def compute_the_weight(x: Tensor) -> Tensor:
    return F.conv2d(upsample(x), x[:1, :, :1, :1].expand(4, 4, 3, 3), padding=1)


@pytest.mark.parametrize(
    "function",
    [*OTHER_FACTOR, *[lambda x, c=c: c(upsample(x)) for c in OTHER_CONVOLUTIONS], use_in_two_ways, compute_the_weight],
)
def test_other_upsampling_stays(function: Function) -> None:
    part = export(function, [normal(2, 4, 6, 8)], [PICTURE_AXES])
    check(part, function, [normal(1, 4, 4, 6)])
    assert count(part)["Resize"] == 1
    assert count(part)["ConvTranspose"] == 0


def test_two_convolutions_may_read_one_upsampling() -> None:
    other = conv(4, 2, 3, padding=1)

    def convolve_twice(x: Tensor) -> Tensor:
        return torch.cat([PLAIN(upsample(x)), other(upsample(x))], 1)

    part = export(convolve_twice, [normal(2, 4, 6, 8)], [PICTURE_AXES])
    check(part, convolve_twice, [normal(1, 4, 4, 6)])
    assert (count(part)["Resize"], count(part)["ConvTranspose"]) == (0, 2)


def test_the_weight_before_an_upsampling_keeps_its_values() -> None:
    after = conv(16, 16, 3, padding=1)
    part = export(lambda x: after(upsample(x)), [normal(2, 16, 6, 8)], [PICTURE_AXES])
    stored = [value.const_value.numpy() for value in part.model.graph.initializers.values()]
    assert any(np.array_equal(array, after.weight.numpy()) for array in stored)


def expand(x: Tensor, *sizes: int) -> Tensor:
    return x[:, :, :, None, :, None].expand(*sizes)


def repeat(x: Tensor) -> Tensor:
    return expand(x, -1, -1, -1, 2, -1, 3).reshape(x.shape[0], 4, x.shape[2] * 2, -1)


OTHER_REPEATS: list[Function] = [
    lambda x: expand(x[:1], 3, -1, -1, 2, -1, 2).reshape(3, 4, x.shape[2] * 2, -1),
    lambda x: expand(x[:, :1], -1, 4, -1, 2, -1, 2).reshape(x.shape[0], 4, x.shape[2] * 2, -1),
    lambda x: expand(x[:, :, :1], -1, -1, 5, 2, -1, 2).reshape(x.shape[0], 4, 10, -1),
    lambda x: expand(x, -1, -1, -1, 2, -1, 2).reshape(x.shape[0], 4, -1),
    lambda x: expand(x, -1, -1, -1, 2, -1, 2).reshape(x.shape[0], 2, x.shape[2] * 2, -1),
    lambda x: expand(x, -1, -1, -1, x.shape[0], -1, 2).reshape(x.shape[0], 4, x.shape[2] * x.shape[0], -1),
    lambda x: repeat(x > 0).float(),
    lambda x: repeat(x.double()),
]


@pytest.mark.parametrize("function", OTHER_REPEATS)
def test_other_expanded_views_stay(function: Function) -> None:
    part = export(function, [normal(2, 4, 6, 8)], [PICTURE_AXES])
    check(part, function, [normal(3, 4, 4, 6)])
    assert count(part)["Resize"] == 0


@pytest.mark.parametrize(
    "function", [repeat, lambda x: expand(x, -1, -1, -1, 2, -1, -1).reshape(-1, 4, 12, x.shape[3])]
)
def test_repeated_pixels_are_a_resize(function: Function) -> None:
    part = export(function, [normal(2, 4, 6, 8)], [{0: BATCH, 3: WIDTH}])
    check(part, function, [normal(3, 4, 6, 2)])
    assert (count(part)["Resize"], count(part)["Expand"]) == (1, 0)


def test_the_gradient_of_a_convolution_reads_the_weight_that_a_lora_may_change() -> None:
    layer = conv(8, 8, 3, padding=1)

    def differentiate(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            result = layer(x)
            return torch.autograd.grad(result, x, result.detach())[0]

    part = export(differentiate, [normal(2, 8, 6, 8)], [PICTURE_AXES])
    (weight,) = (value for value in part.model.graph.initializers.values() if list(value.shape or ()) == [8, 8, 3, 3])
    layer.weight.mul_(2)
    weight.const_value = onnx_ir.tensor(layer.weight.numpy(), name=weight.name)
    check(part, differentiate, [normal(1, 8, 4, 6)])


IN_A_BRANCH = """<ir_version: 10, opset_import: ["": 20]>
g (float[B,2,H,W] x, bool condition) => (float[B,2,P,Q] y)
<float[2,1,1] k = {1,2}, float[4] scales = {1,1,2,2}, float[1,2,3,3] w={1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}> {
  scaled = Mul(x, k)
  large = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)
  y = If(condition)<
    then_branch = yes () => (float[B,2,H,W] y0) { shifted = Add(scaled, k) y0 = Mul(shifted, k) },
    else_branch = no () => (float[B,1,P,Q] y1) { y1 = Conv<pads=[1,1,1,1], strides=[1,1], dilations=[1,1]>(large, w) }
  >
}"""


UNKNOWN_BATCHES = """<ir_version: 10, opset_import: ["": 20]>
g (float[?,2,H,W] x, float[?,2,P] flat, float[?,2,1,1] scale) => (float[?,2,H,W] y) {
  shape = Shape(x)
  picture = Reshape(flat, shape)
  scaled = Mul(picture, scale)
  shifted = Add(scaled, scale)
  y = Mul(shifted, scale)
}"""


def test_pictures_of_an_unknown_number_keep_their_steps() -> None:
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(UNKNOWN_BATCHES)))
    join_affine_steps(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Reshape", "Mul", "Add", "Mul"]


def test_operators_in_a_branch_are_not_joined_with_those_before_it() -> None:
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(IN_A_BRANCH)))
    join_affine_steps(model)
    join_upsampling(model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    assert [node.op_type for node in model.graph] == ["Mul", "Resize", "If"]

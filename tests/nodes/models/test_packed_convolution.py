"""Convolutions with a packed weight: the same values as without, and never those of an old weight."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from guidegraph.graph.frozen_models import copy_frozen
from guidegraph.nodes.models.networks import packed_convolution
from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d, set_packing

pytestmark = pytest.mark.skipif(not packed_convolution.is_available(), reason="this torch has no oneDNN")


def convolution(dtype: torch.dtype = torch.float32, **settings: int) -> PackedConv2d:
    torch.manual_seed(0)
    return PackedConv2d(24, 40, 3, **({"padding": 1} | settings)).to(dtype).eval().requires_grad_(False)


def plain(layer: PackedConv2d, x: Tensor) -> Tensor:
    return nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def is_packed(layer: PackedConv2d) -> bool:
    return bool(copies(layer))


def copies(layer: PackedConv2d) -> list[Tensor]:
    return packed_convolution.CACHE.copies(layer.weight.untyped_storage()._cdata)


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 8}, {"bias": False}]
)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 4, 4), (3, 8, 6), (2, 16, 20)])
@torch.no_grad()
def test_it_equals_a_plain_convolution(settings: dict[str, int], batch: int, height: int, width: int) -> None:
    layer = convolution(**settings)
    for x in (torch.randn(batch, 24, height, width), torch.randn(1, 24, 8, 8)):
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-5)
    assert is_packed(layer)


@torch.no_grad()
def test_in_bfloat16() -> None:
    layer = convolution(torch.bfloat16)
    x = torch.randn(2, 24, 8, 8).bfloat16()
    wide = nn.functional.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1)  # type: ignore[union-attr]
    torch.testing.assert_close(layer(x).float(), wide, rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_the_memory_layout_of_the_input_is_irrelevant() -> None:
    layer, x = convolution(), torch.randn(2, 24, 8, 8)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(layer(other), layer(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_large_maps_are_channels_last_in_bfloat16_alone() -> None:
    bf16 = packed_convolution.is_available(torch.bfloat16)
    for dtype, channels_last in ((torch.bfloat16, bf16), (torch.float32, False), (torch.float64, False)):
        layer, x = convolution(dtype), torch.randn(1, 24, 40, 40).to(dtype)
        out = layer(x)
        assert out.is_contiguous(memory_format=torch.channels_last) is channels_last
        assert not is_packed(layer)
        expected = plain(layer.double(), x.double()).to(dtype)
        torch.testing.assert_close(out, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-2)


@pytest.mark.parametrize("change", ["in place", "data", "parameter", "load_state_dict", "to"])
@torch.no_grad()
def test_a_changed_weight_is_packed_again(change: str) -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    before = layer(x)
    if change == "in place":
        layer.weight.mul_(2)
    elif change == "data":
        layer.weight.data = layer.weight.data * 2
    elif change == "parameter":
        layer.weight = nn.Parameter(layer.weight * 2, requires_grad=False)
    elif change == "load_state_dict":
        layer.load_state_dict({"weight": layer.weight * 2, "bias": layer.bias})
    else:
        layer = layer.double().float()
        layer.weight.mul_(2)
    assert float((layer(x) - before).abs().max()) > 0.1
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_copies_that_share_a_weight_share_its_packed_copy() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    layer(x)
    count = len(packed_convolution.CACHE)
    shared = copy_frozen(layer)
    torch.testing.assert_close(shared(x), layer(x), rtol=0, atol=0)
    assert len(packed_convolution.CACHE) == count
    layer.weight.mul_(2)  # the copy shares this change, as it shares the tensor
    torch.testing.assert_close(shared(x), plain(layer, x), rtol=1e-5, atol=1e-5)
    assert len(packed_convolution.CACHE) == count
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert not is_packed(copy.deepcopy(layer))


@torch.no_grad()
def test_packed_copies_are_dropped_with_their_weights() -> None:
    packed_convolution.forget_unused()
    before = len(packed_convolution.CACHE)
    layers = [convolution() for _ in range(3)]
    for layer in layers:
        layer(torch.randn(1, 24, 8, 8))
    assert len(packed_convolution.CACHE) == before + 3
    del layers, layer
    packed_convolution.forget_unused()
    assert len(packed_convolution.CACHE) == before


def test_it_is_a_plain_convolution_in_other_cases() -> None:
    small, large = torch.randn(1, 24, 8, 8), torch.randn(1, 24, 40, 40)
    for layer, x in ((convolution(), small), (convolution(torch.float64), small.double()), (convolution(), large)):
        with torch.set_grad_enabled(x.dtype == torch.float32 and x is small):
            layer(x)
        assert not is_packed(layer)
    with torch.no_grad():
        layer = convolution()
        set_packing(nn.Sequential(layer), False)
        layer(small)
        assert not is_packed(layer)


def test_gradients_flow_through_it() -> None:
    layer = convolution()
    with torch.no_grad():
        layer(torch.randn(1, 24, 8, 8))
    x = torch.randn(1, 24, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert float(gradient.abs().max()) > 0


def test_it_is_traced_as_a_convolution() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        layer(x)
        program = torch.export.export(layer, (x,))
    targets = [str(each.target) for each in program.graph.nodes]
    assert any("conv2d" in target for target in targets)
    assert not any("mkldnn" in target for target in targets)


@torch.no_grad()
def test_a_weight_that_trains_is_not_packed() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    layer(x)
    layer.requires_grad_(True)
    for _ in range(2):
        layer.weight.grad = torch.ones_like(layer.weight)
        torch.optim.AdamW([layer.weight], lr=0.1, fused=True).step()  # which does not count as a change in place
        layer(x)
        assert not is_packed(layer)
    layer.requires_grad_(False)
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-4)
    assert is_packed(layer)


@pytest.mark.parametrize("how", ["packs off", "autocast", "vmap", "compiled"])
def test_a_trained_weight_is_packed_again(how: str) -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        layer(x)
    assert is_packed(layer)
    layer.requires_grad_(True)
    if how == "packs off":
        set_packing(layer, False)
        out = layer(x)
        set_packing(layer, True)
    elif how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x).float()
    elif how == "vmap":
        out = torch.func.vmap(layer)(x[None])
    else:
        out = torch.compile(layer, backend="aot_eager")(x)
    out.sum().backward()
    torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True).step()  # which does not count as a change in place
    layer.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("strict", [True, False])
def test_a_weight_that_trains_is_exported(strict: bool) -> None:
    frozen, layer, x = convolution(), convolution().requires_grad_(True), torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        frozen(x)
    program = torch.export.export(layer, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), plain(layer, x))
    traced = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
    assert "mkldnn" not in traced.code


@torch.no_grad()
def test_transforms_see_a_convolution() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    expected = plain(layer, x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    tangent = torch.ones_like(x)
    moved: Tensor = torch.func.jvp(layer, (x,), (tangent,))[1]
    torch.testing.assert_close(moved, nn.functional.conv2d(tangent, layer.weight, padding=1), rtol=1e-5, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, moved)
    weights = torch.stack([layer.weight, 2 * layer.weight])
    each = torch.func.vmap(lambda weight: torch.func.functional_call(layer, {"weight": weight}, (x,)))(weights)
    torch.testing.assert_close(each[0], expected, rtol=1e-5, atol=1e-5)
    traced = torch.jit.trace(layer, (x,))
    assert "mkldnn" not in str(traced.inlined_graph)


@torch.no_grad()
def test_inputs_and_settings_of_a_plain_convolution() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    torch.testing.assert_close(layer(x[0]), plain(layer, x)[0], rtol=1e-5, atol=1e-5)
    assert layer(x[:0]).shape == (0, 40, 8, 8)
    with pytest.raises(RuntimeError, match="to have 24 channels"):
        layer(x[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not is_packed(layer)
    with torch.inference_mode():
        within = convolution()
        torch.testing.assert_close(within(x), plain(within, x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cache_does_not_grow_with_changed_weights() -> None:
    layer, x = convolution(), torch.randn(1, 24, 8, 8)
    layer(x)
    count, watched = len(packed_convolution.CACHE), len(packed_convolution._watched)
    for _ in range(3):
        layer.weight.mul_(0.9)
        layer(x)
    assert (len(packed_convolution.CACHE), len(packed_convolution._watched)) == (count, watched)


def test_a_processor_without_bfloat16() -> None:
    program = (
        "import torch\n"
        "from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d, is_available\n"
        "assert is_available() and not is_available(torch.bfloat16)\n"
        "layer = PackedConv2d(24, 40, 3).bfloat16().requires_grad_(False)\n"
        "with torch.no_grad():\n"
        "    print(tuple(layer(torch.randn(1, 24, 8, 8).bfloat16()).shape))\n"
    )
    python_path = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment = {**os.environ, **python_path, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "(1, 40, 6, 6)", result.stderr

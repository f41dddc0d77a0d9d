"""A reference of the papers' Inception: plain convolutions with a dictionary of weights, and random weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SHAPES_OF_STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}
A, C, E = (("Mixed_5b", "Mixed_5c", "Mixed_5d"), tuple(f"Mixed_6{x}" for x in "bcde"), ("Mixed_7b", "Mixed_7c"))


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """The shape of each convolution's weight, by the published names."""
    shapes: dict[str, tuple[int, ...]] = dict(SHAPES_OF_STEM)

    def add(block: str, **convs: tuple[int, ...]) -> None:
        shapes.update({f"{block}.{name}": shape for name, shape in convs.items()})

    for block, n, pool in zip(A, (192, 256, 288), (32, 64, 64), strict=True):
        add(block, branch1x1=(64, n, 1, 1), branch5x5_1=(48, n, 1, 1), branch5x5_2=(64, 48, 5, 5))
        add(block, branch3x3dbl_1=(64, n, 1, 1), branch3x3dbl_2=(96, 64, 3, 3), branch3x3dbl_3=(96, 96, 3, 3))
        add(block, branch_pool=(pool, n, 1, 1))
    add("Mixed_6a", branch3x3=(384, 288, 3, 3), branch3x3dbl_1=(64, 288, 1, 1))
    add("Mixed_6a", branch3x3dbl_2=(96, 64, 3, 3), branch3x3dbl_3=(96, 96, 3, 3))
    for block, m in zip(C, (128, 160, 160, 192), strict=True):
        add(block, branch1x1=(192, 768, 1, 1), branch_pool=(192, 768, 1, 1), branch7x7_1=(m, 768, 1, 1))
        add(block, branch7x7_2=(m, m, 1, 7), branch7x7_3=(192, m, 7, 1), branch7x7dbl_1=(m, 768, 1, 1))
        add(block, branch7x7dbl_2=(m, m, 7, 1), branch7x7dbl_3=(m, m, 1, 7))
        add(block, branch7x7dbl_4=(m, m, 7, 1), branch7x7dbl_5=(192, m, 1, 7))
    add("Mixed_7a", branch3x3_1=(192, 768, 1, 1), branch3x3_2=(320, 192, 3, 3), branch7x7x3_1=(192, 768, 1, 1))
    add("Mixed_7a", branch7x7x3_2=(192, 192, 1, 7), branch7x7x3_3=(192, 192, 7, 1), branch7x7x3_4=(192, 192, 3, 3))
    for block, n in zip(E, (1280, 2048), strict=True):
        add(block, branch1x1=(320, n, 1, 1), branch3x3_1=(384, n, 1, 1), branch3x3dbl_1=(448, n, 1, 1))
        add(block, branch3x3_2a=(384, 384, 1, 3), branch3x3_2b=(384, 384, 3, 1), branch3x3dbl_2=(384, 448, 3, 3))
        add(block, branch3x3dbl_3a=(384, 384, 1, 3), branch3x3dbl_3b=(384, 384, 3, 1), branch_pool=(192, n, 1, 1))
    return shapes


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dictionary with the published names and shapes, of numbers that keep the activations of unit size."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))

    state = {}
    for name, shape in weight_shapes().items():
        n = shape[0]
        state[f"{name}.conv.weight"] = draw(*shape, scale=(2 / np.prod(shape[1:])) ** 0.5)
        state |= {f"{name}.bn.weight": 1 + draw(n, scale=0.1), f"{name}.bn.bias": draw(n, scale=0.1)}
        state |= {f"{name}.bn.running_mean": draw(n, scale=0.1), f"{name}.bn.running_var": 1 + draw(n).abs()}
    return state | {"fc.weight": draw(1008, 2048, scale=0.05), "fc.bias": draw(1008)}


def resize_like_tensorflow_1(pictures: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """`tf.image.resize_bilinear` without half-pixel centres, one output at a time: maps (B, C, H, W)."""
    height, width = pictures.shape[2:]
    resized = np.empty((*pictures.shape[:2], side, side))
    for i in range(side):
        y = i * height / side
        top, bottom = int(y), min(int(y) + 1, height - 1)
        row = pictures[:, :, top] * (1 - (y - top)) + pictures[:, :, bottom] * (y - top)
        for j in range(side):
            x = j * width / side
            left, right = int(x), min(int(x) + 1, width - 1)
            resized[:, :, i, j] = row[..., left] * (1 - (x - left)) + row[..., right] * (x - left)
    return resized


def features(state: dict[str, Tensor], pixels: Tensor) -> dict[str, Tensor]:
    """`spatial`, `pooled` and `logits` of pictures (B, 3, 299, 299) of whole numbers 0 … 255, in their dtype."""
    weights = {name: tensor.to(pixels) for name, tensor in state.items()}
    x = (pixels - 128) / 128

    def conv(name: str, x: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        y = F.conv2d(x, weights[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, gain, bias = (
            weights[f"{name}.bn.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / (var + 0.001).sqrt() * gain + bias).relu()

    def average(x: Tensor) -> Tensor:
        """The mean over neighbours, without the padding."""
        kernel = x.new_ones(x.shape[1], 1, 3, 3)
        total = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
        return total / F.conv2d(torch.ones_like(x), kernel, padding=1, groups=x.shape[1])

    def largest(x: Tensor) -> Tensor:
        return F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))

    def halve(x: Tensor) -> Tensor:
        return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))

    x = conv("Conv2d_1a_3x3", x, stride=2)
    x = conv("Conv2d_2a_3x3", x)
    x = halve(conv("Conv2d_2b_3x3", x, padding=1))
    x = halve(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)))
    for b in A:
        five = conv(f"{b}.branch5x5_2", conv(f"{b}.branch5x5_1", x), padding=2)
        three = conv(f"{b}.branch3x3dbl_2", conv(f"{b}.branch3x3dbl_1", x), padding=1)
        three = conv(f"{b}.branch3x3dbl_3", three, padding=1)
        x = torch.cat([conv(f"{b}.branch1x1", x), five, three, conv(f"{b}.branch_pool", average(x))], 1)
    three = conv("Mixed_6a.branch3x3dbl_2", conv("Mixed_6a.branch3x3dbl_1", x), padding=1)
    three = conv("Mixed_6a.branch3x3dbl_3", three, stride=2)
    x = torch.cat([conv("Mixed_6a.branch3x3", x, stride=2), three, halve(x)], 1)
    layers = {}
    for b in C:
        point = conv(f"{b}.branch1x1", x)
        if b == "Mixed_6d":
            layers["spatial"] = point[:, :7].permute(0, 2, 3, 1).flatten(1)
        seven = conv(f"{b}.branch7x7_2", conv(f"{b}.branch7x7_1", x), padding=(0, 3))
        seven = conv(f"{b}.branch7x7_3", seven, padding=(3, 0))
        twice = conv(f"{b}.branch7x7dbl_2", conv(f"{b}.branch7x7dbl_1", x), padding=(3, 0))
        twice = conv(f"{b}.branch7x7dbl_3", twice, padding=(0, 3))
        twice = conv(f"{b}.branch7x7dbl_4", twice, padding=(3, 0))
        twice = conv(f"{b}.branch7x7dbl_5", twice, padding=(0, 3))
        x = torch.cat([point, seven, twice, conv(f"{b}.branch_pool", average(x))], 1)
    three = conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), stride=2)
    seven = conv("Mixed_7a.branch7x7x3_2", conv("Mixed_7a.branch7x7x3_1", x), padding=(0, 3))
    seven = conv("Mixed_7a.branch7x7x3_3", seven, padding=(3, 0))
    x = torch.cat([three, conv("Mixed_7a.branch7x7x3_4", seven, stride=2), halve(x)], 1)
    for b, pool in zip(E, (average, largest), strict=True):
        single = conv(f"{b}.branch3x3_1", x)
        double = conv(f"{b}.branch3x3dbl_2", conv(f"{b}.branch3x3dbl_1", x), padding=1)
        branches = [conv(f"{b}.branch1x1", x)]
        for name, h in (("3x3_2", single), ("3x3dbl_3", double)):
            branches += [
                conv(f"{b}.branch{name}a", h, padding=(0, 1)),
                conv(f"{b}.branch{name}b", h, padding=(1, 0)),
            ]
        x = torch.cat([*branches, conv(f"{b}.branch_pool", pool(x))], 1)
    layers["pooled"] = x.mean((2, 3))
    layers["logits"] = layers["pooled"] @ weights["fc.weight"].T
    return layers

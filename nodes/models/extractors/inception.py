"""The Inception network of published FIDs: Inception-v3 as TensorFlow's graph of 2015-12-05 computes it.

Szegedy et al. 2016 (section 6), with two details of that graph that are not in the paper: average pools exclude the
padding, and the last block uses a max pool. Weights have the names of the published PyTorch conversion
(`pt_inception-2015-12-05-6726825d.pth`, pytorch-fid and torch-fidelity), which are the names in torchvision's blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.models.extractors.settings import InceptionLayer

SIDE = 299
FEATURES, CLASSES = 2048, 1008
NORM_EPSILON = 1e-3
SPATIAL_CHANNELS = 7
PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"


class Conv(NamedTuple):
    """A convolution without bias, its batch norm and a ReLU; `padded` with zeros so that stride 1 keeps the sides."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class Fork(NamedTuple):
    """Two convolutions of one input, concatenated."""

    first: Conv
    second: Conv


class Pool(NamedTuple):
    """A 3 × 3 pool: `average` and `max` keep the sides, `halve` is a maximum with stride 2."""

    kind: Literal["average", "max", "halve"]


Branch: TypeAlias = tuple[Conv | Fork | Pool, ...]
WIDE, TALL = (1, 7), (7, 1)
STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, padded=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    Pool("halve"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    Pool("halve"),
)


def block_a(pooled: int) -> tuple[Branch, ...]:
    """The blocks of 35 × 35 positions."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (Pool("average"), Conv("branch_pool", pooled)),
    )


def block_c(inside: int) -> tuple[Branch, ...]:
    """The blocks of 17 × 17 positions, their 7 × 7 convolutions factored."""
    double = zip((inside, inside, inside, 192), (TALL, WIDE, TALL, WIDE), strict=True)
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", inside), Conv("branch7x7_2", inside, WIDE), Conv("branch7x7_3", 192, TALL)),
        (
            Conv("branch7x7dbl_1", inside),
            *(Conv(f"branch7x7dbl_{i}", channels, kernel) for i, (channels, kernel) in enumerate(double, 2)),
        ),
        (Pool("average"), Conv("branch_pool", 192)),
    )


def block_e(pool: Literal["average", "max"]) -> tuple[Branch, ...]:
    """The blocks of 8 × 8 positions; the graph's last one pools by the maximum."""
    across, down = (1, 3), (3, 1)
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), Fork(Conv("branch3x3_2a", 384, across), Conv("branch3x3_2b", 384, down))),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            Fork(Conv("branch3x3dbl_3a", 384, across), Conv("branch3x3dbl_3b", 384, down)),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": (
        (Conv("branch3x3", 384, (3, 3), 2, padded=False),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), 2, padded=False),
        ),
        (Pool("halve"),),
    ),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, padded=False)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, WIDE),
            Conv("branch7x7x3_3", 192, TALL),
            Conv("branch7x7x3_4", 192, (3, 3), 2, padded=False),
        ),
        (Pool("halve"),),
    ),
    "Mixed_7b": block_e("average"),
    "Mixed_7c": block_e("max"),
}


class ConvNorm(nn.Module):
    """The layers that a `Conv` describes."""

    def __init__(self, channels: int, conv: Conv) -> None:
        super().__init__()
        height, width = conv.kernel
        padding = (height // 2, width // 2) if conv.padded else (0, 0)
        self.conv = nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.channels, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def add_convolutions(module: nn.Module, channels: int, branch: Branch) -> int:
    """Add the convolutions of a branch to `module` by name. Returns the number of output channels."""
    for step in branch:
        if isinstance(step, Pool):
            continue
        convs = (step,) if isinstance(step, Conv) else step
        for conv in convs:
            module.add_module(conv.name, ConvNorm(channels, conv))
        channels = sum(conv.channels for conv in convs)
    return channels


def run_branch(module: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    """Run x (B, C, h, w) through the steps of a branch."""
    for step in branch:
        if isinstance(step, Conv):
            x = module.get_submodule(step.name)(x)
        elif isinstance(step, Fork):
            x = torch.cat([module.get_submodule(conv.name)(x) for conv in step], 1)
        elif step.kind == "average":
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif step.kind == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            x = F.max_pool2d(x, 3, stride=2)
    return x


class Mixed(nn.Module):
    """Branches over one input, their outputs concatenated along the channels."""

    def __init__(self, channels: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.out_channels = sum(add_convolutions(self, channels, branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([run_branch(self, branch, x) for branch in self.branches], 1)


class Inception(nn.Module):
    """A `FeatureExtractor`: pictures to one layer (B, D) of the papers' Inception.

    layer: `pooled`, 2,048 features, for FID and KID; `logits`, 1,008 without the bias of the last layer, as the papers
    compute the Inception score (Salimans et al. 2016); `spatial`, 17 × 17 × 7 = 2,023 features, for sFID (Nash et al.
    2021): the first seven channels of the first convolution of the block Mixed_6d, in the order of TensorFlow's (B, h,
    w, C).
    """

    def __init__(self, layer: InceptionLayer = "pooled") -> None:
        super().__init__()
        self.layer = layer
        channels = add_convolutions(self, 3, STEM)
        for name, branches in BLOCKS.items():
            block = Mixed(channels, branches)
            self.add_module(name, block)
            channels = block.out_channels
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1], rounded to the 256 values of a picture file, to (B, D)."""
        h = run_branch(self, STEM, prepare(image.to(self.fc.weight.dtype)))
        for name in BLOCKS:
            if name == "Mixed_6d" and self.layer == "spatial":
                maps: Tensor = self.get_submodule(f"{name}.branch1x1")(h)
                return (maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1),)
            h = self.get_submodule(name)(h)
        pooled = h.mean((2, 3))
        return (pooled if self.layer == "pooled" else F.linear(pooled, self.fc.weight),)


def prepare(image: Tensor) -> Tensor:
    """Prepare pictures (B, 3, H, W) in [-1, 1] for the graph: round to 0 … 255, resize, then (v − 128)/128."""
    levels = ((image + 1) * 127.5).round().clamp(0, 255)
    return (resize(levels, SIDE) - 128) / 128


def resize(x: Tensor, side: int) -> Tensor:
    """Resize maps (B, C, H, W) to (B, C, side, side) as TensorFlow 1's `resize_bilinear` does.

    Output i samples the input at i · H/side, not at (i + ½) · H/side − ½ as elsewhere, without antialiasing.
    """
    for axis in (2, 3):
        length = x.shape[axis]
        position = torch.arange(side, dtype=torch.float64) * length / side
        low = position.long()
        weight = (position - low).to(x).reshape(-1, *(1,) * (3 - axis))
        below = x.index_select(axis, low.to(x.device))
        above = x.index_select(axis, (low + 1).clamp(max=length - 1).to(x.device))
        x = below + (above - below) * weight
    return x


def load_inception(path: Path, layer: InceptionLayer) -> Inception:
    """Load the network from a state dictionary with the published names, a .pth or safetensors file.

    Raises ``ValueError`` for a file that does not hold exactly these weights. Nothing in it is executed.
    """
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error}. Inception's weights are published as a state dictionary, {PUBLISHED}") from None
    with torch.device("meta"):
        network = Inception(layer)
    expected = network.state_dict()
    counts = {name for name in expected if name.endswith(".num_batches_tracked")}  # unused, and not in every file
    missing, unknown = sorted(expected.keys() - counts - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        differences = [f"'{missing[0]}' and {len(missing) - 1} others are missing"] if missing else []
        differences += [f"'{unknown[0]}' and {len(unknown) - 1} others are none of its weights"] if unknown else []
        raise ValueError(
            f"'{path}' does not hold the papers' Inception: {'; '.join(differences)}. Take {PUBLISHED}, or its tensors "
            "under the same names as safetensors"
        )
    for name in expected.keys() - counts:
        tensor, shape = tensors[name], tuple(expected[name].shape)
        if tensor.shape != shape or not tensor.is_floating_point():
            raise ValueError(
                f"'{path}' does not hold the papers' Inception: '{name}' has the shape {tuple(tensor.shape)} and the "
                f"dtype {tensor.dtype}, expected {shape} and floats: take {PUBLISHED}"
            )
    network.to_empty(device="cpu")
    network.load_state_dict(tensors | {name: torch.zeros((), dtype=torch.long) for name in counts})
    return network.eval().requires_grad_(False)

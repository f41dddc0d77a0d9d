"""A detector of objects with boxes and colours: an object is a point on a map (Zhou et al. 2019, "Objects as Points").

It judges pictures of the scenes of 128 pixels, and shares no weights with the generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, Upsample, group_norm
from guidegraph.nodes.shape_checks import check_sides

GEOMETRY = 4
"""Channels of an object's offset from its cell and of its size: x, y, log width, log height."""
RARE = -4.6
"""The first logit of every kind, σ(−4.6) = 0.01, since almost all cells are empty (Lin et al. 2017, section 4.1)."""


@dataclass(frozen=True)
class BoxDetectorConfig:
    """Hyper-parameters of a BoxDetector: kinds of object, and colours, after which one more is for no single colour."""

    objects: int = 64
    colours: int = 11
    channels: int = 32

    @property
    def outputs(self) -> int:
        """Channels of the maps."""
        return self.objects + self.colours + 1 + GEOMETRY


class ObjectMaps(NamedTuple):
    """Maps at one cell for 4 × 4 pixels: logits of kinds (B, K, h, w), of colours (B, C + 1, h, w), and geometry."""

    kinds: Tensor
    colours: Tensor
    geometry: Tensor


class BoxDetector(nn.Module):
    """A convolutional network down to a sixteenth of the resolution and up again to a quarter, with skips."""

    def __init__(self, config: BoxDetectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), ResidualBlock(width, width), Downsample(width)
        )
        self.quarter = ResidualBlock(width, 2 * width)
        self.eighth = nn.Sequential(Downsample(2 * width), ResidualBlock(2 * width, 4 * width))
        self.sixteenth = nn.Sequential(
            Downsample(4 * width), ResidualBlock(4 * width, 4 * width), ResidualBlock(4 * width, 4 * width)
        )
        self.up_eighth = nn.Sequential(Upsample(4 * width), ResidualBlock(4 * width, 4 * width))
        self.up_quarter = nn.Sequential(Upsample(4 * width), nn.Conv2d(4 * width, 2 * width, 1))
        self.top = nn.Sequential(ResidualBlock(2 * width, 4 * width), group_norm(4 * width), nn.SiLU())
        self.head = nn.Conv2d(4 * width, config.outputs, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()  # type: ignore[union-attr]
            self.head.bias[: config.objects] = RARE  # type: ignore[index]

    def forward(self, image: Tensor) -> ObjectMaps:
        """Maps of pictures (B, 3, H, W) in [-1, 1], whose sides are multiples of 16."""
        check_sides(image, 16, "the detector")
        quarter = self.quarter(self.stem(image))
        eighth = self.eighth(quarter)
        eighth = eighth + self.up_eighth(self.sixteenth(eighth))
        maps = self.head(self.top(quarter + self.up_quarter(eighth)))
        sizes = [self.config.objects, self.config.colours + 1, GEOMETRY]
        return ObjectMaps(*maps.split(sizes, 1))


class Targets(NamedTuple):
    """What maps should be: heat (B, K, h, w) in [0, 1], and for each of N objects its picture, cell and values.

    cells (N, 3): picture, row and column; colour (N); geometry (N, 4).
    """

    heat: Tensor
    cells: Tensor
    colour: Tensor
    geometry: Tensor


def make_targets(objects: Tensor, colours: Tensor, boxes: Tensor, shape: tuple[int, int, int], unnamed: int) -> Targets:
    """Targets of maps of shape (K, h, w) from the rows of scenes: kinds (B, R), colours (B, R), boxes (B, R, 4).

    Rows with kind −1 are empty. unnamed: the index for a colour of −1. The heat around a centre is a Gaussian with a
    deviation of a tenth of the box's sides.
    """
    kinds, height, width = shape
    batch, boxes = objects.shape[0], boxes.detach()
    heat = torch.zeros(batch, kinds, height, width, device=boxes.device)
    picture, row = torch.nonzero(objects >= 0, as_tuple=True)
    box, kind, colour = boxes[picture, row].float(), objects[picture, row], colours[picture, row]
    scale = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
    centre, side = (box[:, :2] + box[:, 2:]) / 2 * scale, (box[:, 2:] - box[:, :2]) * scale
    cell = torch.minimum(centre.floor().clamp(min=0), scale - 1)
    deviation = (0.1 * side).clamp(min=0.35)
    rows = torch.arange(height, device=boxes.device, dtype=torch.float32)
    columns = torch.arange(width, device=boxes.device, dtype=torch.float32)
    across = torch.exp(-0.5 * ((columns - cell[:, :1]) / deviation[:, :1]).square())
    down = torch.exp(-0.5 * ((rows - cell[:, 1:]) / deviation[:, 1:]).square())
    blobs = down[:, :, None] * across[:, None, :]
    for number in range(len(kind)):
        target = heat[picture[number], kind[number]]
        torch.maximum(target, blobs[number], out=target)
    geometry = torch.cat([centre - cell - 0.5, side.clamp(min=0.1).log()], 1)
    cells = torch.stack([picture, cell[:, 1].long(), cell[:, 0].long()], 1)
    return Targets(heat, cells, torch.where(colour < 0, unnamed, colour), geometry)


def box_detector_loss(maps: ObjectMaps, targets: Targets) -> Tensor:
    """The focal loss of the heat (Zhou et al. 2019, eq. 1), and at centres L1 of the geometry and the colours' entropy.

    Each is averaged over the objects of the batch.
    """
    count = max(len(targets.cells), 1)
    logits = maps.kinds.float()
    is_centre = targets.heat == 1
    missed = F.logsigmoid(logits) * torch.sigmoid(-logits).square() * is_centre
    empty = F.logsigmoid(-logits) * torch.sigmoid(logits).square() * (1 - targets.heat) ** 4 * ~is_centre
    heat = -(missed + empty).sum() / count
    picture, row, column = targets.cells.unbind(1)
    geometry = (maps.geometry.float()[picture, :, row, column] - targets.geometry).abs().sum() / count
    colour = F.cross_entropy(maps.colours.float()[picture, :, row, column], targets.colour, reduction="sum") / count
    return heat + 0.3 * geometry + 0.5 * colour


class FoundObjects(NamedTuple):
    """Objects found in each picture, best first; rows without one have kind −1 and score 0.

    object (B, N) and colour (B, N), int64; colour −1 is not a single colour; box (B, N, 4): left, top, right and lower
    edge in units of the picture's sides; score (B, N) in [0, 1].
    """

    object: Tensor
    colour: Tensor
    box: Tensor
    score: Tensor


def find_objects(maps: ObjectMaps, *, threshold: float, most: int, overlap: float) -> FoundObjects:
    """The peaks of the heat above `threshold`, at most `most` in a picture.

    Of two peaks of one kind whose boxes overlap by more than `overlap` (intersection over union), the higher stays.
    """
    precise = torch.promote_types(maps.kinds.dtype, torch.float32)
    heat = torch.sigmoid(maps.kinds.to(precise))
    batch, kinds, height, width = heat.shape
    peaks = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    score, place = peaks.flatten(1).topk(min(most, kinds * height * width), dim=1)
    kind, cell = place // (height * width), place % (height * width)
    row, column = cell // width, cell % width
    picture = torch.arange(batch, device=heat.device)[:, None].expand_as(cell)
    geometry = maps.geometry.to(precise)[picture, :, row, column]
    colour = maps.colours[picture, :, row, column].argmax(-1)
    centre = torch.stack([column, row], -1) + 0.5 + geometry[..., :2]
    half = geometry[..., 2:].clamp(max=8).exp() / 2
    scale = torch.tensor([width, height, width, height], dtype=precise, device=heat.device)
    box = torch.cat([centre - half, centre + half], -1) / scale
    kept = _suppress(kind, box, score > threshold, overlap)
    ranks = torch.arange(kept.shape[1], device=kept.device)
    order = torch.where(kept, ranks, ranks + len(ranks)).topk(len(ranks), dim=1, largest=False).indices
    unnamed = maps.colours.shape[1] - 1
    return FoundObjects(
        torch.where(kept, kind, -1).gather(1, order),
        torch.where(kept & (colour != unnamed), colour, -1).gather(1, order),
        torch.where(kept[..., None], box, -1.0).gather(1, order[..., None].expand_as(box)),
        torch.where(kept, score, 0.0).gather(1, order),
    )


def _suppress(kind: Tensor, box: Tensor, kept: Tensor, overlap: float) -> Tensor:
    """Drop every object of a kind that overlaps a better one; all are (B, N), best first."""
    low = torch.maximum(box[:, :, None, :2], box[:, None, :, :2])
    high = torch.minimum(box[:, :, None, 2:], box[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)
    ratio = shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1e-9)
    rivals = (kind[:, :, None] == kind[:, None]) & (ratio > overlap)
    kept = kept.clone()
    for rank in range(1, kind.shape[1]):
        kept[:, rank] &= ~(rivals[:, rank, :rank] & kept[:, :rank]).any(1)
    return kept


@dataclass(frozen=True)
class DetectorConfig:
    """Hyper-parameters of a Detector: `objects` independent labels, then one choice of `skies` and one of `grounds`."""

    objects: int = 16
    skies: int = 3
    grounds: int = 4
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))

    @property
    def classes(self) -> int:
        return self.objects + self.skies + self.grounds


class Detector(nn.Module):
    """A small convolutional network that scores every class at every position.

    An object's logit is the largest over positions (it may be anywhere); the logit of a sky or a ground is
    the mean (it fills the picture).
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1)]
        for multiplier in config.multipliers:
            out = multiplier * config.channels
            layers += [ResidualBlock(width, out), Downsample(out)]
            width = out
        layers += [ResidualBlock(width, width), ResidualBlock(width, width), group_norm(width), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, config.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, objects + skies + grounds) of pictures (B, 3, 64, 64) in [-1, 1]."""
        check_sides(image, 2, "the detector")
        scores = self.head(self.features(image)).flatten(2)
        objects, background = scores[:, : self.config.objects], scores[:, self.config.objects :]
        return torch.cat([objects.amax(2), background.mean(2)], dim=1)

    def penultimate(self, image: Tensor) -> Tensor:
        """The input of the last layer, averaged over positions (B, D)."""
        check_sides(image, 2, "the detector")
        features: Tensor = self.features(image)
        return features.mean((2, 3))


def detector_loss(logits: Tensor, labels: Tensor, config: DetectorConfig) -> Tensor:
    """Binary cross-entropy of the objects plus cross-entropy of sky and ground; labels (B, K) in {0, 1}."""
    objects, skies = config.objects, config.objects + config.skies
    present = F.binary_cross_entropy_with_logits(logits[:, :objects], labels[:, :objects])
    sky = F.cross_entropy(logits[:, objects:skies], labels[:, objects:skies].argmax(1))
    ground = F.cross_entropy(logits[:, skies:], labels[:, skies:].argmax(1))
    return 4 * present + 0.5 * (sky + ground)

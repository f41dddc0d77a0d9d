"""Measure whether an independent classifier recognises the classes of generated pictures.

    python tools/judge_classes.py runs/own/few runs/drawn --held-out runs/own/held [--json FILE]

The judge is a linear classifier of EfficientNet-lite0's features (the extra `efficientnet`), trained on the folder's
pictures (CLASS/*.png), their mirror images and small shifts of both. It judges the pictures of a run of
workflows/own/draw_finetuned.yaml or draw_lora.yaml, which draw the classes in turn, and says for each class how many
are taken for it. Held-out pictures are the ceiling; drawn pictures with their classes in random order are chance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from guidegraph.nodes.images.image import load_image
from guidegraph_lab.metrics.features import efficientnet, extract_features

SHIFTS = ((0, 0), (0, 3), (3, 0), (0, -3), (-3, 0))
STEPS = 300


def pictures(files: Sequence[Path]) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1]."""
    return torch.cat([load_image(path=file) for file in files])


def folder_files(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class of a folder, by the classes' names in order. Raises ``ValueError`` for none."""
    classes = {path.name: sorted(path.glob("*.png")) for path in sorted(folder.iterdir()) if path.is_dir()}
    if len(classes) < 2 or not all(classes.values()):
        raise ValueError(f"'{folder}' needs two folders of pictures or more, CLASS/*.png")
    return classes


def label_pictures(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures, labels (N) int64, and the names of the classes."""
    classes = folder_files(folder)
    labels = [index for index, files in enumerate(classes.values()) for _ in files]
    return pictures([file for files in classes.values() for file in files]), torch.tensor(labels), list(classes)


def variants(image: Tensor) -> Tensor:
    """All shifts of pictures and of their mirror images, (2 · shifts · N, 3, H, W)."""
    moved = [F.pad(image, (4, 4, 4, 4), mode="replicate").roll(shift, (2, 3))[..., 4:-4, 4:-4] for shift in SHIFTS]
    return torch.cat([*moved, *(picture.flip(3) for picture in moved)])


class Judge:
    """A linear classifier of normalised features, by regularised logistic regression."""

    def __init__(self, image: Tensor, label: Tensor, classes: int) -> None:
        self.extractor = efficientnet()
        features = self._features(variants(image))
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-3
        weight = torch.zeros(features.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        inputs, targets = (features - self.mean) / self.spread, label.repeat(2 * len(SHIFTS))
        optimiser = torch.optim.Adam([weight, bias], lr=0.01)
        with torch.enable_grad():
            for _ in range(STEPS):
                optimiser.zero_grad()
                loss = F.cross_entropy(inputs @ weight + bias, targets) + 1e-3 * weight.square().sum()
                loss.backward()
                optimiser.step()
        self.weight, self.bias = weight.detach(), bias.detach()

    def _features(self, image: Tensor) -> Tensor:
        return torch.cat([extract_features(self.extractor, part) for part in image.split(32)])

    def __call__(self, image: Tensor) -> Tensor:
        """The class (N) of each picture."""
        return (((self._features(image) - self.mean) / self.spread) @ self.weight + self.bias).argmax(1)


def table(judged: Tensor, label: Tensor, names: Sequence[str]) -> dict[str, list[float]]:
    """For each class, the share of its pictures that is taken for each of the classes."""
    return {
        name: [float((judged[label == index] == other).float().mean()) for other in range(len(names))]
        for index, name in enumerate(names)
    }


def shuffled_share(judged: Tensor, label: Tensor, rounds: int = 1000) -> float:
    """The accuracy by chance: the mean over random orders of the labels."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(label), generator=generator) for _ in range(rounds)]
    return float(torch.stack([(judged == label[order]).float().mean() for order in orders]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("drawn", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with torch.no_grad():
        image, label, names = label_pictures(options.folder)
        judge = Judge(image, label, len(names))
        files = sorted(options.drawn.glob("image-*.png"))
        turns = torch.arange(len(files)) % len(names)
        judged = judge(pictures(files))
        shares = {"drawn": float((judged == turns).float().mean())}
        shares["drawn, classes shuffled"] = shuffled_share(judged, turns)
        if options.held_out:
            held_image, held_label, _ = label_pictures(options.held_out)
            shares["held-out pictures"] = float((judge(held_image) == held_label).float().mean())
    result = {"classes": names, "pictures": len(files), "shares": shares, "taken_for": table(judged, turns, names)}
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A stranger's plugin: a family of small networks, single files that are recognised by the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guidegraph import Condition, Family, Prediction, Schedule, Tensor, current_device, current_dtype, hookimpl

MARKS = ("pebble.first.weight", "pebble.last.weight")


class Pebble(nn.Module):
    """Predicts ε of pictures (B, 3, H, W) by two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, 3, H, W), t (B), any condition."""
        inner = self.first(x) + (t / 100)[:, None, None, None]
        return Prediction(self.last(nn.functional.silu(inner)), "eps")


def write_pebble(path: Path, width: int = 4) -> Path:
    """Write a network with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = Pebble(width).state_dict()
    save_file({f"pebble.{name}": tensor for name, tensor in weights.items()}, path)
    return path


def recognise(headers: Mapping[str, Any], config: Mapping[str, Any] | None) -> bool:
    return config is None and all(name in headers for name in MARKS) and headers[MARKS[0]].dtype == "float32"


def open_pebble(path: Path, options: Any) -> dict[str, Any]:
    """The denoiser and its schedule. Raises ``ValueError`` for settings that it does not use."""
    options.refuse_unused(str(path))
    weights = {name.removeprefix("pebble."): tensor for name, tensor in load_file(path).items()}
    network = Pebble(len(weights["first.weight"])).to(current_device(), current_dtype())
    network.load_state_dict(weights)
    levels = torch.cos(torch.linspace(0.01, 1.5, 100, dtype=torch.float64)).square()
    return {"denoiser": network, "schedule": Schedule(levels.to(current_device()))}


@hookimpl
def guidegraph_families() -> list[Family]:
    return [Family("pebble", recognise, open_pebble)]

"""A stranger's plugin: conditions carry a pose, a map of where the joints are, and a small network reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt
from safetensors.torch import load_file, save_file
from torch import nn

from guidegraph import Condition, ConditionField, Denoiser, Image, Prediction, Tensor, Written, hookimpl, node


class Pose(Tensor):
    """A map of each joint, 1 where it is."""

    axes = ("B", 2, "H", "W")


class Network(nn.Module):
    """Predicts v from x, a vector of one number and the maps of two joints."""

    reads = ("vector", "pose")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1 + 2, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.vector = nn.Linear(1, 8)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, 1, H, W), t (B), a condition with a vector (B, 1) and a pose (B, 2, H, W)."""
        shift = self.vector(condition.fields["vector"]) + t[:, None] / 1000
        inner = self.first(torch.cat([x, condition.fields["pose"]], dim=1)) + shift[:, :, None, None]
        return Prediction(self.last(nn.functional.silu(inner)), "v")


class SilentNetwork(nn.Module):
    """Reads no condition, and does not say so."""

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, 1, H, W), t (B), any condition."""
        return Prediction(x, "x0")


class VectorNetwork(SilentNetwork):
    """Says that it reads the vector alone."""

    reads = ("vector",)


class Batch(NamedTuple):
    image: Image
    pose: Pose


@node("pose.network", host=True)
def make_network(*, path: Path | None = None) -> Denoiser:
    """The network with the weights of a file, or with the same random ones at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network().eval()
    if path is not None:
        network.load_state_dict(load_file(path))
    return network


@node("pose.other_network", host=True)
def make_other_network(*, silent: bool = True) -> Denoiser:
    """A network that does not read the pose."""
    return SilentNetwork() if silent else VectorNetwork()


@node("pose.save", pure=False, host=True)
def save(denoiser: Denoiser, *, path: Annotated[Path, Written()]) -> Path:
    """Write the weights of a network."""
    assert isinstance(denoiser, Network)
    save_file(denoiser.state_dict(), path)
    return path


@node("pose.batches", host=True)
def make_batches(*, size: Annotated[int, Gt(0)] = 8) -> Sequence[Batch]:
    """Two batches of three pictures that are bright where the first joint is."""
    poses = [torch.eye(2 * size * size)[i : i + 3].reshape(3, 2, size, size) for i in (0, 9)]
    return [Batch(2 * pose[:, :1] - 1, pose) for pose in poses]


@node("pose.bump")
def draw_bump(*, at: Annotated[float, Ge(0)] = 0.5, size: Annotated[int, Gt(0)] = 8) -> Pose:
    """The maps (1, 2, size, size) of two joints: one at this place on the diagonal, and one across from it."""
    places = torch.linspace(0, 1, size)
    distance = (places[None, :] - at).square() + (places[:, None] - at).square()
    bump = torch.exp(-20 * distance)
    return torch.stack([bump, bump.flip(0)])[None]


@node("pose.add")
def add_pose(condition: Condition, pose: Pose) -> Condition:
    """The condition with a pose."""
    return condition.with_fields(pose=pose)


@node("pose.bumps")
def draw_bumps() -> Pose:
    """The maps (3, 2, 8, 8) of three samples."""
    return torch.cat([draw_bump(at=at) for at in (0.0, 0.5, 1.0)])


@node("pose.deep")
def make_deep() -> Condition:
    """A condition with depths, which are the same for all samples."""
    return Condition().with_fields(depth=torch.ones(1, 1, 8, 8))


@node("pose.tokens")
def make_tokens() -> Condition:
    """A condition with three tokens."""
    return Condition(tokens=torch.ones(1, 3, 4))


@hookimpl
def guidegraph_nodes() -> list[object]:
    return [
        make_network,
        make_other_network,
        save,
        make_batches,
        draw_bump,
        draw_bumps,
        add_pose,
        make_deep,
        make_tokens,
    ]


@hookimpl
def guidegraph_types() -> list[type]:
    return [Pose]


@hookimpl
def guidegraph_condition_fields() -> list[ConditionField]:
    return [ConditionField("pose", ("B", "C", "H", "W")), ConditionField("depth", ("B", 1, "H", "W"), null=-1)]

"""Torch's generators of the CPU and of another device: their states, and putting them back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generators_kept(device: torch.device) -> AbstractContextManager[None]:
    """Inside, torch's generators of the CPU and of a device may be used: they are put back at the end."""
    import torch

    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Torch's generator of the CPU as ``rng``, and that of another device, which dropout draws from there."""
    import torch

    states = {"rng": torch.random.get_rng_state()}
    if device.type != "cpu":
        states["rng.device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_generators(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Put back what ``generator_states`` gave. On another kind of device than then, its generator stays as it is."""
    import torch

    torch.random.set_rng_state(states["rng"])
    if device.type != "cpu" and "rng.device" in states:
        torch.get_device_module(device).set_rng_state(states["rng.device"], device)

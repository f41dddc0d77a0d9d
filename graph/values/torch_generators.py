"""Saving and restoring the states of torch's generators, of the CPU and another device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def preserve_generators(device: torch.device) -> AbstractContextManager[None]:
    """A context manager that restores torch's generators of the CPU and of a device at the end."""
    import torch

    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def read_generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's CPU generator, ``rng``, and of another device's, ``rng.device``, which dropout uses."""
    import torch

    states = {"rng": torch.random.get_rng_state()}
    if device.type != "cpu":
        states["rng.device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_generators(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Restore saved states. Without a state for the device's generator, that one is left alone."""
    import torch

    torch.random.set_rng_state(states["rng"])
    if device.type != "cpu" and "rng.device" in states:
        torch.get_device_module(device).set_rng_state(states["rng.device"], device)

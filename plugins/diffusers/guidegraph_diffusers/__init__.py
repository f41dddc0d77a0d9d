"""Models and schedulers of diffusers as guidegraph's port types, also those that guidegraph does not implement.

A first-party plugin with the extra `diffusers`. It uses only what `guidegraph` exports, as any plugin does, and imports
diffusers when a node runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import hookimpl
from guidegraph_diffusers import autoencoders, denoisers, schedulers, schedules, text


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [
        denoisers.load_denoiser,
        denoisers.class_labels,
        autoencoders.load_autoencoder,
        schedules.read_schedule,
        schedulers.new_sampler,
        schedulers.start,
        schedulers.step,
        text.load_text,
    ]


@hookimpl
def guidegraph_types() -> list[type]:
    return [schedulers.DiffusersSampler]

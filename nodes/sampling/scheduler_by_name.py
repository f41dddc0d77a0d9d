"""A sampler chosen by its name: a workflow's parameter, or an axis of a sweep."""

from __future__ import annotations

from collections.abc import Callable

from guidegraph.nodes.derive import node_from_operation
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph_runtime.samplers.by_name import SamplerName as SamplerName

sampler_by_name: Callable[..., Sampler] = node_from_operation(
    "scheduler.named", __name__, name="sampler_by_name", outputs=Sampler
)

"""Samplers' tables as the fields of a Scheduler, and noising to the level where a sampler starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.admission import common_batch
from guidegraph_runtime.checks import check_array, check_fields, check_int, check_same_axes
from guidegraph_runtime.operations.levels import parse_levels
from guidegraph_runtime.operations.operation import operation
from guidegraph_runtime.operations.schedule import parse_schedule
from guidegraph_runtime.samplers import samplers
from guidegraph_runtime.tables.rows import K
from guidegraph_runtime.tables.sampler_table import SamplerTable, check_shorthand

SAMPLERS = (
    samplers.ddpm,
    samplers.ddim,
    samplers.pndm,
    samplers.euler,
    samplers.euler_ancestral,
    samplers.heun,
    samplers.dpm2,
    samplers.dpm2_ancestral,
    samplers.lms,
    samplers.dpmpp_2m,
    samplers.dpmpp_2m_sde,
    samplers.dpmpp_2s,
    samplers.dpmpp_2s_ancestral,
    samplers.dpmpp_sde,
    samplers.dpmpp_3m_sde,
    samplers.unipc,
    samplers.deis,
    samplers.edm,
    samplers.lcm,
    samplers.tcd,
)


class Sampler(NamedTuple):
    """The fields of a Scheduler and of a SchedulerState, and the times of its rows (R), float32."""

    scheduler: dict[str, Any]
    steps: NDArray[np.float32]
    state: dict[str, NDArray[Any]]


def _table_shape(steps: Any) -> tuple[int, ...]:
    """A lower bound on the shape of a table: at least one row per step."""
    return check_int("steps", steps, low=1), 1 + K, 4 + K


def _sampler_operation(table_of: Callable[..., SamplerTable]) -> Callable[..., Sampler]:
    """Wrap a sampler as an operation on the fields of a schedule and of levels, with the same settings."""

    def sampler(schedule: Mapping[str, Any], levels: Mapping[str, Any] | None = None, **settings: Any) -> Sampler:
        visited = None if levels is None else parse_levels(levels)
        check_shorthand(table_of, visited, settings)
        table = table_of(parse_schedule(schedule), visited, **settings)
        state: dict[str, NDArray[Any]] = {"index": np.zeros(1, dtype=np.int64), "slots": np.zeros(K, dtype=np.float32)}
        return Sampler(table._asdict(), table.t.astype(np.float32), state)

    port, *settings = inspect.signature(table_of).parameters.values()
    sampler.__signature__ = inspect.Signature([port.replace(name="schedule"), *settings])  # type: ignore[attr-defined]
    sampler.__wrapped__ = table_of  # type: ignore[attr-defined]
    sampler.__name__, sampler.__doc__ = table_of.__name__, table_of.__doc__
    return sampler


for _table_of in SAMPLERS:
    operation(f"scheduler.{_table_of.__name__}", shape=_table_shape)(_sampler_operation(_table_of))


def noisy_shape(x0: Any, noise: Any) -> tuple[int, ...]:
    """The shape of the result of `scheduler.add_noise`: one picture is broadcast to a batch of noise."""
    return common_batch("x0 and noise", x0.shape[0], noise.shape[0]), *x0.shape[1:]


@operation("scheduler.add_noise", shape=noisy_shape)
def add_noise(
    scheduler: Mapping[str, Any],
    x0: NDArray[Any],
    noise: NDArray[Any],
    state: Mapping[str, Any] | None = None,
) -> NDArray[Any]:
    """x0 (B, C, H, W) at the noise level where the sampler starts, or, with a state, at that of the next model call.

    After the last call x0 comes back as it is. float64 where x0 is float64, otherwise float32.
    """
    check_fields("scheduler", scheduler, "alpha", "sigma")
    check_same_axes(
        "x0 and noise", check_array("x0", x0, "(B, C, H, W)", "f"), check_array("noise", noise, "(B, C, H, W)", "f")
    )
    dtype = np.float64 if x0.dtype == np.float64 else np.float32
    row = 0
    if state is not None:
        row = int(check_array("state.index", check_fields("state", state, "index")["index"], "(1)", "i").item())
    levels = [
        np.append(check_array(f"scheduler.{name}", scheduler[name], "(R)", "f"), end).astype(dtype)
        for name, end in (("alpha", 1), ("sigma", 0))
    ]
    if not 0 <= row < len(levels[0]):
        raise ValueError(f"state.index: expected a row from 0 to {len(levels[0]) - 1}; found {row}")
    alpha, sigma = (level[row] for level in levels)
    noisy: NDArray[Any] = alpha * x0.astype(dtype) + sigma * noise.astype(dtype)
    return noisy

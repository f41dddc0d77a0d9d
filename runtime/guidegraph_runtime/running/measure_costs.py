"""Measure the memory and time of a call of each part of a bundle at two sizes of its samples, for a server to plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Cost, Part
from guidegraph_runtime.bundle.names import BATCH
from guidegraph_runtime.bundle.part_costs import list_size_axes
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions.broadcasting import axis_sizes
from guidegraph_runtime.sessions.call_limits import release_arena

if TYPE_CHECKING:
    from guidegraph_runtime.running.bundle import Bundle

LARGE = 256 << 20
"""Bytes of a call after which no larger size is tried. The next one would take 4 to 16 times as much.

The bytes decide, and not the time, so that a slow machine measures the same sizes as a fast one.
"""
LONG = 30.0
"""Seconds of the processor after which no larger size of a part is tried in any case."""
MOST = 4
"""Doublings of the sides that are tried: small samples say little about large ones."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Array = NDArray[Any]


def measure_costs(bundle: Bundle, calls: Mapping[str, Mapping[str, Array]]) -> dict[str, tuple[Cost, Cost]]:
    """The costs of each part whose samples have free sides, at its largest two sizes that take a moment.

    calls: the inputs of a call of each part. Nothing is measured where the system does not show the peak of a
    process's memory (other than Linux), and for a part that takes no other size.
    """
    measured: dict[str, tuple[Cost, Cost]] = {}
    if not _CLEAR.exists():
        return measured
    for name, inputs in calls.items():
        with suppress(BundleError, OSError):
            costs = _measure_part(bundle, name, inputs)
            if len(costs) >= 2:
                measured[name] = costs[-2], costs[-1]
    return measured


def _measure_part(bundle: Bundle, name: str, inputs: Mapping[str, Array]) -> list[Cost]:
    part = bundle.manifest.parts[name]
    axes = list_size_axes(part)
    if not axes:
        return []
    started = time.process_time()
    costs = [_measure_call(bundle, name, inputs)]
    if _is_enough(costs[0], started):  # a smaller size instead
        return [_measure_call(bundle, name, _resize(part, inputs, axes, 0.5)), *costs]
    while not _is_enough(costs[-1], started) and len(costs) <= MOST:
        costs.append(_measure_call(bundle, name, _resize(part, inputs, axes, 2 ** len(costs))))
    return costs


def _is_enough(cost: Cost, started: float) -> bool:
    return time.process_time() - started > LONG or cost.nbytes > LARGE


def _resize(part: Part, inputs: Mapping[str, Array], axes: list[str], factor: float) -> dict[str, Array]:
    """Inputs with other sides: their values are repeated or left out."""
    resized = {}
    for tensor in part.inputs:
        array = inputs[tensor.name]
        for i, dim in enumerate(tensor.dims):
            if dim in axes:
                array = np.take(array, np.arange(round(array.shape[i] * factor)) % array.shape[i], i)
        resized[tensor.name] = array
    return resized


def _measure_call(bundle: Bundle, name: str, inputs: Mapping[str, Array]) -> Cost:
    """The peak memory of a call, less the memory of the process before it, and its seconds."""
    session = bundle.session(name)
    release_arena()
    before = _read_status("VmRSS")
    _CLEAR.write_text("5")  # resets the peak
    started = time.perf_counter()
    session.run(inputs)
    seconds = time.perf_counter() - started
    nbytes = max(_read_status("VmHWM") - before, sum(array.nbytes for array in inputs.values()))
    part = bundle.manifest.parts[name]
    sizes = axis_sizes(part, inputs)
    return Cost({axis: sizes.get(axis, 1) for axis in (BATCH, *list_size_axes(part))}, nbytes, round(seconds, 4))


def _read_status(name: str) -> int:
    lines = (line.split() for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(next(lines)[1]) * 1024

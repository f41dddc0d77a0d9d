"""Measure the memory and time of a call of each part of a bundle at two sizes of its samples, for a server to plan."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.folder import list_size_axes
from guidegraph_runtime.bundle.manifest_types import BATCH, Cost, Part
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.npy import read_npy
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


Observer: TypeAlias = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]
"""Called with each part's name, inputs and outputs."""


@dataclass(frozen=True)
class Difference:
    """The deviation of an output: absolute (max |a - b|), relative (that over max |b|), and the tolerance."""

    name: str
    kind: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def fits(self) -> bool:
        return self.absolute <= self.tolerance  # NaN does not

    @property
    def text(self) -> str:
        """The deviation as text; for pictures in units of 1/255 of the range [-1, 1]."""
        if self.kind == "image":
            return f"{self.absolute * 127.5:.4f}/255 of at most {self.tolerance * 127.5:.4g}/255"
        return f"{self.absolute:.2e} of at most {self.tolerance:.2e}"


def compare_output(name: str, kind: str, actual: NDArray[Any], expected: NDArray[Any], tolerance: float) -> Difference:
    """Compare an output with the expected one. tolerance: absolute for pictures, else times max(1, max |expected|).

    Tables differ as far as the worst of their columns; texts differ by infinity.
    """
    if expected.dtype.names:
        columns = [
            compare_output(name, kind, actual[column], expected[column], tolerance)
            for column in expected.dtype.names
            if actual.dtype.names == expected.dtype.names
        ]
        different = Difference(name, kind, float("inf"), float("inf"), tolerance)
        return max(columns, key=lambda difference: difference.absolute - difference.tolerance, default=different)
    if actual.shape != expected.shape:
        return Difference(name, kind, float("inf"), float("inf"), tolerance)
    if actual.dtype.kind in "US" or expected.dtype.kind in "US":
        deviation = 0.0 if (actual == expected).all() else float("inf")
        return Difference(name, kind, deviation, deviation, tolerance)
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    largest = float(np.abs(b).max(initial=0.0))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        deviation = float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0))
    allowed = tolerance if kind == "image" else tolerance * max(1.0, largest)
    return Difference(name, kind, deviation, deviation / largest if largest else deviation, allowed)


def replay(bundle: Bundle, observer: Observer | None = None) -> list[Difference]:
    """Run a bundle's reference, and compare each of its outputs. observer: of ``Bundle.run_with``.

    Raises ``BundleError`` for a bundle without one.
    """
    reference = bundle.manifest.reference
    if reference is None:
        message = "this bundle carries no run to repeat; export without --no-reference"
        raise BundleError(bundle.where, "no-reference", message)
    inputs = {name: bundle.load_value(name, value) for name, value in reference.inputs.items()}
    outputs = bundle.run_with(inputs, only=[*reference.outputs], observer=observer)
    differences = []
    for name, file in reference.outputs.items():
        try:
            array = read_npy(io.BytesIO(bundle.file(file)), file)
            if not isinstance(array, np.ndarray):
                raise ValueError("several arrays")
        except (ValueError, EOFError, OSError) as error:
            location = f"{bundle.where}/{file}"
            raise BundleError(location, "bad-reference", f"expected an array (.npy): {error}") from None
        kind = bundle.manifest.outputs[name].type
        differences.append(compare_output(name, kind, outputs[name], array, reference.tolerance))
    return differences

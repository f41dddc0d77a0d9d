"""Repeat the reference run of a bundle, to check that this machine gives the engine's results."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.npy import read_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from guidegraph_runtime.running.bundle import Bundle

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

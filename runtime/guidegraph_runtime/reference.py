"""The run that a bundle carries, made again: does this machine give what the engine gave?"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.npy import read_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from guidegraph_runtime.bundle import Bundle


@dataclass(frozen=True)
class Difference:
    """How far an output is from what it should be: largest |a - b|, that over the largest |b|, and how much is fine."""

    name: str
    kind: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def fits(self) -> bool:
        return self.absolute <= self.tolerance  # NaN does not

    @property
    def shown(self) -> str:
        """A picture's in units of 1/255 of its range [-1, 1], another's as it is."""
        if self.kind == "image":
            return f"{self.absolute * 127.5:.4f}/255 of at most {self.tolerance * 127.5:.4g}/255"
        return f"{self.absolute:.2e} of at most {self.tolerance:.2e}"


def difference(name: str, kind: str, found: NDArray[Any], expected: NDArray[Any], tolerance: float) -> Difference:
    """Compare one output. tolerance: of a picture's values; of others, for each 1 of the largest |expected| over 1."""
    import numpy as np

    if found.shape != expected.shape:
        return Difference(name, kind, float("inf"), float("inf"), tolerance)
    if found.dtype.kind in "US" or expected.dtype.kind in "US":
        off = 0.0 if (found == expected).all() else float("inf")
        return Difference(name, kind, off, off, tolerance)
    a, b = found.astype(np.float64), expected.astype(np.float64)
    largest = float(np.abs(b).max(initial=0.0))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        off = float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0))
    allowed = tolerance if kind == "image" else tolerance * max(1.0, largest)
    return Difference(name, kind, off, off / largest if largest else off, allowed)


def replay(bundle: Bundle) -> list[Difference]:
    """Run a bundle's reference, and compare each of its outputs. Raises ``BundleError`` for a bundle without one."""
    reference = bundle.manifest.reference
    if reference is None:
        message = "this bundle carries no run to repeat; export without --no-reference"
        raise BundleError(bundle.where, "no-reference", message)
    given = {name: bundle.carried(name, value) for name, value in reference.inputs.items()}
    found = bundle.run_with(given, only=[*reference.outputs])
    return [
        difference(name, bundle.manifest.outputs[name].type, found[name], _array(bundle, file), reference.tolerance)
        for name, file in reference.outputs.items()
    ]


def _array(bundle: Bundle, file: str) -> NDArray[Any]:
    import numpy as np

    try:
        array = read_npy(io.BytesIO(bundle.file(file)), file)
        if not isinstance(array, np.ndarray):
            raise ValueError("several arrays")
    except (ValueError, EOFError, OSError) as error:
        raise BundleError(f"{bundle.where}/{file}", "bad-reference", f"expected an array (.npy): {error}") from None
    return array

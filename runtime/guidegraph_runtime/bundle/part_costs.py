"""Memory and time of a part's call, estimated for any size from two that the export measured, and the file of these.

Convolutions and feed-forward layers take memory and time in proportion to the pixels of a sample, and attention to
their square. Times add up, so two measurements give both coefficients. A call takes the memory of its largest
operator: once attention is that, it grows with the square. A batch takes the multiple of one sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from guidegraph_runtime.bundle.manifest import MAX_DIM, MAX_SIZE
from guidegraph_runtime.bundle.manifest_types import Cost, Part
from guidegraph_runtime.bundle.names import BATCH, COSTS, label_problem
from guidegraph_runtime.bundle.strict_json import Cursor, parse_json

_PICTURE_AXES = 4
SQUARE_FROM = 1.2
"""The power of the area beyond which memory that grew so between two sizes belongs to attention."""


class Estimate(NamedTuple):
    """Bytes and seconds of a call."""

    nbytes: int = 0
    seconds: float = 0.0


def read_costs(data: bytes, parts: Mapping[str, Part], location: str = COSTS) -> dict[str, tuple[Cost, ...]]:
    """The measured costs of the calls of parts. Raises ``BundleError`` for a file that is wrong."""
    costs: dict[str, tuple[Cost, ...]] = {}
    top = Cursor(parse_json(data, location), location)
    for name, pair in top.entries(lambda name: None if name in parts else "the name of a part"):
        measured = []
        for item in pair.items():
            fields = item.fields(["sizes", "bytes", "seconds"])
            sizes = {axis: size.integer(1, MAX_DIM) for axis, size in fields["sizes"].entries(label_problem)}
            if (seconds := fields["seconds"].number()) < 0:
                fields["seconds"].fail("a number that is not negative")
            measured.append(Cost(sizes, fields["bytes"].integer(0, MAX_SIZE), seconds))
        if len(measured) != 2 or math.prod(measured[0].sizes.values()) >= math.prod(measured[1].sizes.values()):
            pair.fail("the costs at a smaller and at a larger size")
        costs[name] = tuple(measured)
    return costs


def write_costs(costs: Mapping[str, tuple[Cost, ...]]) -> bytes:
    """The contents of the file that ``read_costs`` reads."""
    content = {
        name: [{"sizes": dict(cost.sizes), "bytes": cost.nbytes, "seconds": cost.seconds} for cost in pair]
        for name, pair in costs.items()
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def list_size_axes(part: Part) -> list[str]:
    """The free axes of the sides of a part's samples: the last two of inputs with four axes or more."""
    sides = (dim for tensor in part.inputs if len(tensor.dims) >= _PICTURE_AXES for dim in tensor.dims[-2:])
    return [*dict.fromkeys(dim for dim in sides if isinstance(dim, str) and dim != BATCH)]


def estimate_cost(part: Part, sizes: Mapping[str, int]) -> Estimate:
    """The cost of a call of a part with these sizes of its axes; zeros if the export has not measured it."""
    if len(part.costs) != 2:
        return Estimate()
    small, large = part.costs
    area, batch = _area(part, sizes), sizes.get(BATCH, 1)
    first, second = _area(part, small.sizes), _area(part, large.sizes)
    if not 0 < first < second:
        return Estimate()
    low, high = (cost.nbytes / cost.sizes.get(BATCH, 1) for cost in (small, large))
    growth = math.log(max(high, 1) / max(low, 1)) / math.log(second / first)
    if area > second:
        growth = 2 if growth > SQUARE_FROM else 1
    nbytes = high * (area / second) ** growth
    # A sample takes b · area + c · area² seconds; low and high are its seconds for each pixel at the two sizes.
    low, high = (cost.seconds / cost.sizes.get(BATCH, 1) for cost in (small, large))
    low, high = low / first, high / second
    quadratic = max(0.0, (high - low) / (second - first))
    linear = max(0.0, high - quadratic * second)
    return Estimate(math.ceil(batch * nbytes), batch * (linear * area + quadratic * area**2))


def _area(part: Part, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes.get(axis, 1) for axis in list_size_axes(part))

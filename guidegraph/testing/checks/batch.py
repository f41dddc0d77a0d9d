"""Sample i alone is sample i in a batch, with one t or one for each, with one scale or one for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from guidegraph.graph.types import is_tensor
from guidegraph.nodes.types import Timesteps
from guidegraph.testing.batches import batch_of, narrowed, sample_of
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Inapplicable
from guidegraph.testing.values import Arguments, arguments, call, difference, floating, leaves_out, rounding


def check_batch_invariance(case: NodeCase) -> None:
    """Each sample is computed from its own inputs alone."""
    given = arguments(case)
    batch = batch_of(case, given)
    if batch is None:
        raise Inapplicable("no input has a batch axis")
    if batch == 1:
        raise Inapplicable("its inputs have one sample: give two or more")
    compared = [_same_alone(case, variant, batch, what) for what, variant in _variants(case, given, batch)]
    if not any(compared):
        raise Inapplicable("no output has a batch axis")


def _variants(case: NodeCase, given: Arguments, batch: int) -> Iterator[tuple[str, Arguments]]:
    yield "", given
    times = [name for name, port in case.spec.inputs.items() if Timesteps in port.type.alternatives]
    if any(is_tensor(given.ports.get(name)) and len(given.ports[name]) > 1 for name in times):
        shared = {name: given.ports[name][:1] for name in times if is_tensor(given.ports.get(name))}
        yield " with one t for all", Arguments({**given.ports, **shared}, given.settings)
    scales = {
        name: torch.tensor([float(given.settings[name]) + 0.25 * i for i in range(batch)])
        for name, port in case.spec.settings.items()
        if floating(port.type) and isinstance(given.settings[name], (int, float))
    }
    if scales:
        what = f" with a tensor ({batch}) as {', '.join(scales)}"
        yield what, Arguments(given.ports, {**given.settings, **scales})


def _same_alone(case: NodeCase, given: Arguments, batch: int, what: str) -> bool:
    """Whether an output has a batch axis. Raises ``Nonconforming`` where a sample differs from itself alone."""
    together = call(case, given)
    leaves = [
        (place, leaf)
        for place, leaf in leaves_out(case, together)
        if "B" in leaf.axes and leaf.tensor.shape[leaf.axes.index("B")] == batch
    ]
    for index in range(batch) if leaves else ():
        outputs = call(case, sample_of(case, given, batch, index))
        alone: dict[str, Any] = {place: leaf.tensor for place, leaf in leaves_out(case, outputs)}
        for place, leaf in leaves:
            expected = narrowed(leaf.tensor, leaf, batch, index)
            number = outputs.get(place)  # guidance.interval, say, gives one for one t
            one = torch.tensor([number]) if isinstance(number, (int, float)) else alone.get(place)
            found = difference(one, expected)
            if found > rounding(expected):
                raise case.error(
                    f"sample {index} alone to be sample {index} in a batch of {batch}{what}",
                    f"output '{place}' differs by {found:.1e} of its largest value",
                    "compute norms, means and deviations over the axes of a sample, dim=(1, 2, 3), and give a scale "
                    "(B) trailing axes with per_sample(scale, x)",
                )
    return bool(leaves)

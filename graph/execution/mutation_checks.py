"""Detection of steps that change their inputs in place, by the inputs' states before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from guidegraph.graph.execution.call import PortError
from guidegraph.graph.ir import Call, Loop
from guidegraph.graph.planning.steps import Slot, Step
from guidegraph.graph.sources import Output, Param, format_link
from guidegraph.graph.types import describe_value, is_tensor
from guidegraph.graph.values.ownership import change_count

InputState: TypeAlias = tuple[int, ...]
DEPTH = 4
PLAIN = (int, float, str, type(None))
"""Types of values that cannot be changed and hold no tensors."""


def input_states(step: Step, slots: Sequence[Any]) -> dict[Slot, InputState]:
    """For each slot that a step reads, a state that changes if its tensors, lists or dicts change in place.

    A state has torch's version counters and the identities of the containers' elements. Models and objects of other
    classes are not inspected, and writes through NumPy or ``.data`` are not detected.
    """
    return {
        slot: tuple(_change_counts(slots[slot], DEPTH)) for slot in step.reads if not isinstance(slots[slot], PLAIN)
    }


def check_unchanged(step: Step, slots: Sequence[Any], before: Mapping[Slot, InputState]) -> None:
    """Raise ``PortError`` if a step has changed an input in place: its other readers would see the change."""
    for slot, state in before.items():
        if tuple(_change_counts(slots[slot], DEPTH)) != state:
            culprit = " by a node in the loop's body" if isinstance(step.op, Loop) else ""
            raise PortError(
                _find_port(step, slot),
                f"this input was changed in place{culprit} ({describe_value(slots[slot])}), and others read it too: "
                "work on a copy, such as x + y for x += y, x.clone() before x[…] = y, or list(values)",
            )


def _change_counts(value: Any, depth: int) -> Iterator[int]:
    if is_tensor(value):
        yield change_count(value)
    elif depth and isinstance(value, (list, tuple, dict)):
        items = [*value.values()] if isinstance(value, dict) else value
        if not isinstance(value, tuple):
            yield from (len(value), *map(id, items))
        for item in items:
            yield from _change_counts(item, depth - 1)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _change_counts(getattr(value, field.name, None), depth - 1)


def _find_port(step: Step, slot: Slot) -> str:
    """The name of the port that reads a slot; for a loop, the link to it."""
    for call_step in (step, *step.members):
        if not isinstance(call_step.op, Call):
            continue
        for name, slots in (*zip(call_step.op.spec.inputs, call_step.args, strict=False), *call_step.wired):
            if slot == slots or (isinstance(slots, tuple) and slot in slots):
                return name
    sources = [source for source, slots in step.closure if slots == slot]
    return next((format_link(source) for source in sources if isinstance(source, (Output, Param))), "over")

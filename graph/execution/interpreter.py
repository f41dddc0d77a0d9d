"""The interpreter of a block: fill its slots, execute its steps in order, read its results.

The top level, the body of a loop, the example run of an export and a traced part all run here. They differ in how a
step is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.sources import Source
from guidegraph.graph.values.ownership import copy_value, is_mutable

Execute: TypeAlias = "Callable[[Step, list[Any]], None]"
"""Executes a step: reads its arguments from the slots and stores its outputs in them."""


def fill_slots(block: BlockPlan, values: Mapping[Source, Any]) -> list[Any]:
    """The slots of a block before its first step. values: all that it reads from outside.

    Literals that can be changed in place are copied, since they outlive the run.
    """
    slots: list[Any] = [None] * block.size
    for slot, constant in block.constants:
        slots[slot] = copy_value(constant) if is_mutable(constant) else constant
    for source, slot in block.inputs:
        slots[slot] = values[source]
    return slots


def run_steps(block: BlockPlan, slots: list[Any], execute: Execute) -> None:
    """Execute the steps of a block in order. A value leaves its slot after the last step that uses it."""
    for step in block.steps:
        execute(step, slots)
        for slot in step.frees:
            slots[slot] = None


def interpret(block: BlockPlan, values: Mapping[Source, Any], execute: Execute) -> dict[Source, Any]:
    """The results of a block by source. values: all that it reads from outside."""
    slots = fill_slots(block, values)
    run_steps(block, slots, execute)
    return {source: slots[slot] for source, slot in block.results.items()}

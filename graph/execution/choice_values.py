"""Values that a run computed, or took from a cache, to make a choice, and needs again later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.execution.cache import Values
from guidegraph.graph.ir import Choice, Op
from guidegraph.graph.planning.choice_branches import choose_branch, find_branch_operations
from guidegraph.graph.planning.digest import is_pure
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan
from guidegraph.graph.sources import Output, Source


class HeldValues(dict[str, Values]):
    """The values of operations by key: a tuple of all outputs in order."""

    def value(self, source: Source, plan: Plan) -> Any:
        """The value of a source."""
        if not isinstance(source, Output):
            raise GuidegraphError(f"{source} is read outside of its loop")
        return self[source.op][list(plan.ops[source.op].outputs).index(source.name)]

    def choose_branch(self, choice: Choice, plan: Plan) -> str:
        """The branch that a choice takes by the held value of its ``when``. Raises ``NodeError`` if there is none."""
        return choose_branch(choice, self.value(choice.when, plan))

    def keep(self, ops: Mapping[str, Op], block: BlockPlan, slots: Sequence[Any]) -> None:
        """Hold the values of those operations whose outputs are all among the results of a block that has run."""
        for key, op in ops.items():
            sources = [Output(key, name) for name in op.outputs]
            if sources and all(source in block.results for source in sources):
                self[key] = tuple(slots[block.results[source]] for source in sources)


def list_required_sources(plan: Plan) -> list[Source]:
    """The sources that a run must compute: its outputs and, without pruning, all operations outside of branches."""
    outputs = [source for source, _ in plan.outputs.values()]
    if plan.config.prunes:
        return outputs
    in_branches = find_branch_operations(plan.ops)
    return outputs + [Output(key, "") for key in plan.ops if key not in in_branches]


def list_sources_to_hold(ops: Mapping[str, Op], plan: Plan) -> list[Source]:
    """All outputs of those operations that the rest of the plan reads, or that must not run again."""
    remaining = [op for key, op in plan.ops.items() if key not in ops]
    read = {source for op in remaining for source in op.sources()} | {source for source, _ in plan.outputs.values()}
    keys = {source.op for source in read if isinstance(source, Output)}
    held = [op for op in ops.values() if op.key in keys or not is_pure(op) or not plan.config.prunes]
    return [Output(op.key, name) for op in held for name in op.outputs]

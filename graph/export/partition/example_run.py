"""The example run of a workflow: it computes an example of every value with the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.execution.interpreter import interpret
from guidegraph.graph.execution.loop import run_step
from guidegraph.graph.execution.loop_context import LoopContext
from guidegraph.graph.export.partition.example_values import ExampleValues
from guidegraph.graph.export.partition.leaves import tensor_leaves
from guidegraph.graph.frozen_models import freeze
from guidegraph.graph.ir import Choice, Op
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.planning.choice_branches import choose_branch, find_next_choices
from guidegraph.graph.planning.make_choices import make_choices
from guidegraph.graph.planning.passes import follow_aliases, prune
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import Step, flatten_block
from guidegraph.graph.sources import Output, Source


@dataclass
class ExampleRun:
    """The state of the example run.

    frozen: the models that were used to compute constants, by id, each with the key of an operation that used it.
    """

    plan: Plan
    examples: ExampleValues
    frozen: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def evaluate(self, op: Op) -> None:
        """Compute an operation with the engine."""
        block = flatten_block({op.key: op}, [Output(op.key, name) for name in op.outputs], frozenset())
        self.examples.values.update(interpret(block, self.examples.values, self._execute))

    def _execute(self, step: Step, slots: list[Any]) -> None:
        run_step(step, slots, LoopContext(CancelToken()), self.plan)
        for slot in step.outs:
            freeze(slots[slot])

    def evaluate_constants(self, ops: Mapping[str, Op], roots: Sequence[Source]) -> None:
        """Compute the operations of a block that are the same in every run; of choices, only the branches taken."""
        dynamic = self.examples.dynamic
        constant = {key: op for key, op in ops.items() if key not in dynamic}
        required = [*roots, *(source for op in ops.values() if op.key in dynamic for source in op.sources())]
        aliases: dict[Source, Source] = {}
        while choices := find_next_choices(constant, required, effects=False):
            for op in prune(constant, [choice.when for choice in choices], effects=False).values():
                self._evaluate_once(op)
            branches = {choice.key: choose_branch(choice, self.examples.value(choice.when)) for choice in choices}
            result = make_choices(constant, required, branches)
            constant, required = result.ops, [result.source(source) for source in required]
            aliases |= result.aliases
        for op in constant.values():
            if not isinstance(op, Choice):
                self._evaluate_once(op)
        for source in aliases:
            self.examples.values[source] = self.examples.value(follow_aliases(aliases)(source))

    def _evaluate_once(self, op: Op) -> None:
        outputs = [Output(op.key, name) for name in op.outputs]
        values = self.examples.values
        if any(output in values for output in outputs):
            return
        self.evaluate(op)
        if any(tensor_leaves(values[output]) for output in outputs):
            models = find_models([values[source] for source in op.sources() if source in values])
            self.frozen |= {id(model): (op.key, model) for model in models}

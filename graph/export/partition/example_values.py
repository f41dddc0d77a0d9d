"""The values of the example run, by the names that they get in a bundle, as host calls and choices read them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.execution.loop import run_step
from guidegraph.graph.execution.loop_context import LoopContext, interpret
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.leaves import Leaf, base_name, plain_fields, tensor_leaves
from guidegraph.graph.export.partition.subgraph import ExampleValue, is_number
from guidegraph.graph.frozen_models import freeze
from guidegraph.graph.ir import Loop, Op
from guidegraph.graph.late import torch
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.planning.passes import choose_branch, find_next_choices, follow_aliases, make_choices, prune
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import Step, flatten_block
from guidegraph.graph.sources import Carry, Index, Item, Literal, Output, Param, Source
from guidegraph.graph.types import PortType, Tensor, is_tensor


@dataclass
class HostPlan:
    """tables: tensors that are the same in every run, by name. files: contents of operations' files by name."""

    tables: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add_file(self, name: str, data: bytes) -> str:
        """Add a file with these contents and return its name; equal contents share a file."""
        stem, dot, ending = name.partition(".")
        file_name = f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}{dot}{ending}"
        self.files[file_name] = data
        return file_name


@dataclass
class ExampleValues:
    """An example of every value, and its names in the bundle.

    values: of all sources that were computed. dynamic: the keys of the operations that are left for the run. kinds: the
    values' types. items: the name of each loop's item. host: the tables and files that the run needs. run_names: the
    names in the run of non-tensor fields, by their names at export.
    """

    values: dict[Source, Any]
    dynamic: set[str] = field(default_factory=set)
    kinds: dict[Source, PortType] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    host: HostPlan = field(default_factory=HostPlan)
    run_names: dict[str, str] = field(default_factory=dict)

    def is_dynamic(self, source: Source) -> bool:
        """Whether a value may change from run to run."""
        if isinstance(source, Output):
            return source.op in self.dynamic
        return isinstance(source, (Carry, Item, Index)) or (isinstance(source, Param) and source in self.values)

    def constants(self) -> dict[Source, Any]:
        """The values that are the same in every run."""
        return {source: value for source, value in self.values.items() if not self.is_dynamic(source)}

    def value(self, source: Source) -> Any:
        """The example of a value."""
        return source.value if isinstance(source, Literal) else self.values[source]

    def example(self, source: Source) -> ExampleValue:
        """The example of a value that was computed, with its name and type."""
        return ExampleValue(source, self.name(source), self.values[source], self.kinds.get(source))

    def name(self, source: Source) -> str:
        """The name of a value in the bundle."""
        return base_name(source, self.items)

    def value_names(self, source: Source) -> dict[str, str]:
        """The names of a value's tensors in the run by path; ``{"": name}`` if it has none.

        Tensors and numbers that are the same in every run become tables. Raises ``ExportError`` for such a value that
        is neither.
        """
        value = self.value(source)
        leaves = tensor_leaves(value)
        base = f"constant.{len(self.host.tables)}" if isinstance(source, Literal) else self.name(source)
        if not self.is_dynamic(source):
            if not leaves and not is_number(value):
                reason = f"'{base}' is {value!r:.60}, the same in every run, and a bundle keeps tensors and numbers"
                raise ExportError(reason, "give it as a tensor, or leave it a parameter")
            if not leaves:
                integer_dtype = torch.uint64 if value >= 2**63 else torch.int64  # the largest seeds
                dtype = torch.float64 if isinstance(value, float) else integer_dtype
                leaves = [Leaf("", torch.tensor(value, dtype=dtype), ())]
            self.host.tables |= {leaf.full_name(base): leaf.tensor for leaf in leaves}
        return {leaf.path: leaf.full_name(base) for leaf in leaves} or {"": base}

    def field_names(self, source: Source) -> dict[str, str]:
        """The names in the run of a value's non-tensor fields, by path."""
        if isinstance(source, Literal):
            return {}
        base = self.name(source)
        paths = plain_fields(self.value(source))
        return {path: self.run_names[f"{base}.{path}"] for path in paths if f"{base}.{path}" in self.run_names}

    def name_fields(self, op: Op) -> None:
        """Give the non-tensor fields of an operation's outputs their own names in the run."""
        for output in op.outputs:
            source = Output(op.key, output)
            names = [f"{self.name(source)}.{path}" for path in plain_fields(self.value(source))]
            self.run_names.update(zip(names, names, strict=True))

    def enter_iteration(self, loop: Loop, items: Sequence[Any], i: int) -> None:
        """Set the item and the index of an iteration for the body."""
        self.values[Index(loop.key)] = i
        self.values[Item(loop.key)] = items[i]
        self.kinds[Item(loop.key)] = PortType((ItemType,))

    def list_items(self, loop: Loop, effect: str = "") -> Sequence[Any]:
        """The items of a loop's sequence. Raises ``ExportError`` if there are none; ``effect`` ends its message."""
        over = self.value(loop.over)
        items: Sequence[Any] = range(over) if isinstance(over, int) else over
        if is_tensor(over) and over.ndim == 1:
            items = over.unsqueeze(1)
        if not len(items):
            raise ExportError(
                f"nodes.{loop.key} runs over nothing{effect}", "give it an entry or more", place=str(loop.mark)
            )
        return items


class ItemType(Tensor):
    """The type of a loop's item: one row for the whole batch."""

    axes = ("B",)


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
            if not op.has_branches:
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

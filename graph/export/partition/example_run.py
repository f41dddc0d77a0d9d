"""The example run of a workflow, which produces the host plan and the parts to trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.call import invoke
from guidegraph.graph.execution.loop import run_loop, stack
from guidegraph.graph.execution.loop_context import LoopContext
from guidegraph.graph.export.errors import ExportError, NotPassedOn
from guidegraph.graph.export.partition.choices import make_choice_operation
from guidegraph.graph.export.partition.example_values import HostPlan
from guidegraph.graph.export.partition.guards import find_guards
from guidegraph.graph.export.partition.host_operations import make_host_operation, split_call
from guidegraph.graph.export.partition.leaves import Leaf, base_name, plain_fields, tensor_leaves
from guidegraph.graph.export.partition.stages import Stage, group_stages
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartPlan, is_number, plan_part
from guidegraph.graph.export.partition.unread_inputs import find_unread_inputs
from guidegraph.graph.frozen_models import freeze
from guidegraph.graph.ir import Call, Carry, Choice, Index, Item, Literal, Loop, Op, Output, Param, Source
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.planning.choice_branches import choose_branch, find_next_choices
from guidegraph.graph.planning.make_choices import make_choices
from guidegraph.graph.planning.passes import follow_aliases, prune
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import flatten_region
from guidegraph.graph.training.run_training import run_training
from guidegraph.graph.types import PortType, Tensor, is_tensor
from guidegraph_runtime.bundle.manifest import Operation


@dataclass
class ExampleRun:
    """The state of the example run.

    dynamic: the keys of the operations that are left for the run. hosted: of those that the runtime does. values: an
    example of every value. items: the name of each loop's item. parts, host: the results. run_names: the names in the
    run of non-tensor fields, by their names here. frozen: the models that were used to compute constants, by id, each
    with the key of an operation that used it.
    """

    plan: Plan
    dynamic: set[str]
    values: dict[Source, Any]
    kinds: dict[Source, PortType]
    items: dict[str, str] = field(default_factory=dict)
    hosted: set[str] = field(default_factory=set)
    parts: list[PartPlan] = field(default_factory=list)
    host: HostPlan = field(default_factory=HostPlan)
    run_names: dict[str, str] = field(default_factory=dict)
    frozen: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def region(self, ops: Mapping[str, Op], roots: Sequence[Source], loop_key: str) -> tuple[Operation, ...]:
        """Run a region once and return its host plan. loop_key: "" for the top level."""
        self._evaluate_fixed({key: op for key, op in ops.items() if key not in self.dynamic}, ops, roots)
        dynamic_ops = self._split({key: op for key, op in ops.items() if key in self.dynamic})
        for op in dynamic_ops.values():
            self.kinds.update({Output(op.key, name): kind for name, kind in op.outputs.items()})
        required = list(roots)
        plan: list[Operation] = []
        groups = group_stages(dynamic_ops, lambda call: call.key not in self.hosted, required)
        for number, stage in enumerate(groups):
            if stage.traced:
                for op in stage.ops:
                    self.evaluate(op)
                plan.append(self._plan_part(stage, list(dynamic_ops.values()), required, loop_key, groups[:number]))
            elif isinstance(stage.ops[0], Loop):
                plan.append(self._plan_loop(stage.ops[0]))
            elif isinstance(stage.ops[0], Choice):
                self.evaluate(stage.ops[0])
                plan.append(make_choice_operation(stage.ops[0], self))
            else:
                self.evaluate(stage.ops[0])
                self._keep_plain_fields(stage.ops[0])
                plan.append(make_host_operation(stage.ops[0], self))
        return tuple(plan)

    def _evaluate_fixed(self, fixed: dict[str, Op], ops: Mapping[str, Op], roots: Sequence[Source]) -> None:
        """Compute the constant operations; of choices, only the branches that are taken."""
        dynamic_sources = [source for op in ops.values() if op.key in self.dynamic for source in op.sources()]
        required = [*roots, *dynamic_sources]
        aliases: dict[Source, Source] = {}
        while choices := find_next_choices(fixed, required, effects=False):
            for op in prune(fixed, [choice.when for choice in choices], effects=False).values():
                self._evaluate_once(op)
            branches = {choice.key: choose_branch(choice, self.value(choice.when)) for choice in choices}
            result = make_choices(fixed, required, branches)
            fixed, required = result.ops, [result.source(source) for source in required]
            aliases |= result.aliases
        for op in fixed.values():
            if not isinstance(op, Choice):
                self._evaluate_once(op)
        for source in aliases:
            self.values[source] = self.value(follow_aliases(aliases)(source))

    def _evaluate_once(self, op: Op) -> None:
        if any(Output(op.key, name) in self.values for name in op.outputs):
            return
        self.evaluate(op)
        self._keep_models(op)

    def evaluate(self, op: Op) -> None:
        """Compute an operation with the engine."""
        region = flatten_region({op.key: op}, [Output(op.key, name) for name in op.outputs], frozenset())
        slots: list[Any] = [None] * region.size
        for slot, value in region.constants:
            slots[slot] = value
        for source, slot in region.inputs:
            slots[slot] = self.values[source]
        for step in region.steps:
            if step.body is None:
                invoke(step, slots)
            else:
                run_loop(step, slots, LoopContext(CancelToken(), run_training), self.plan)
            for slot in step.outs:
                freeze(slots[slot])
        self.values.update({source: slots[slot] for source, slot in region.results.items()})

    def is_dynamic(self, source: Source) -> bool:
        """Whether a value may change from run to run."""
        if isinstance(source, Output):
            return source.op in self.dynamic
        return isinstance(source, (Carry, Item, Index)) or (isinstance(source, Param) and source in self.values)

    def name(self, source: Source) -> str:
        return base_name(source, self.items)

    def _split(self, ops: Mapping[str, Op]) -> dict[str, Op]:
        """Split the nodes that run partly on the host into a host operation and a traced one."""
        split_ops: dict[str, Op] = {}
        for key, op in ops.items():
            if isinstance(op, Call) and op.spec.split is not None:
                first, second = split_call(op, self)
                self.dynamic.add(first.key)
                self.hosted = (self.hosted - {key}) | {first.key}
                split_ops[first.key] = first
                op = second
            split_ops[key] = op
        return split_ops

    def _plan_part(
        self, stage: Stage, ops: Sequence[Op], required: Sequence[Source], loop_key: str, earlier: Sequence[Stage]
    ) -> Operation:
        keys = [op.key for op in stage.ops]
        reads = [s for op in stage.ops for s in op.sources() if not (isinstance(s, Output) and s.op in keys)]
        examples = [self._example(s) for s in dict.fromkeys(s for s in reads if self.is_dynamic(s))]
        for example in examples:
            if not (tensor_leaves(example.value) or is_number(example.value) or plain_fields(example.value)):
                raise NotPassedOn(
                    example.source.op if isinstance(example.source, Output) else "",
                    f"'{example.name}' is {example.value!r:.60}, no tensor and no number, and "
                    f"nodes.{', nodes.'.join(keys)} would be traced with it, though it may be another at run time",
                    "give the node a number or a tensor, or leave it out of the exported outputs (--only)",
                    place=str(stage.ops[0].mark),
                )
        constants: dict[Source, Any] = {
            s: self.values[s] for s in reads if isinstance(s, (Output, Param)) and not self.is_dynamic(s)
        }
        outside_sources = [s for op in ops if op.key not in keys for s in op.sources()]
        results = [s for s in dict.fromkeys([*outside_sources, *required]) if isinstance(s, Output) and s.op in keys]
        name = self._part_name(loop_key, earlier)
        result_examples = [self._example(s) for s in results]

        def build(values: Sequence[ExampleValue]) -> PartPlan:
            return plan_part(name, stage.ops, values, constants, result_examples, in_loop=bool(loop_key))

        part = build(examples)
        self.parts.append(part)
        fields = find_guards(part, examples, build, self.run_names)
        settings: dict[str, Any] = {"fields": fields} if fields else {}
        if loop_key and (unread := find_unread_inputs(stage.ops, examples, self.run_names)):
            settings["unread"] = unread
        return Operation("part", name, {example.name: example.name for example in part.inputs}, settings, part.outputs)

    def _keep_models(self, op: Op) -> None:
        if any(tensor_leaves(self.values[Output(op.key, name)]) for name in op.outputs):
            values = [self.values[source] for source in op.sources() if source in self.values]
            self.frozen |= {id(model): (op.key, model) for model in find_models(values)}

    def _keep_plain_fields(self, op: Op) -> None:
        for name in op.outputs:
            source = Output(op.key, name)
            names = [f"{self.name(source)}.{path}" for path in plain_fields(self.value(source))]
            self.run_names.update(zip(names, names, strict=True))

    def _example(self, source: Source) -> ExampleValue:
        return ExampleValue(source, self.name(source), self.values[source], self.kinds.get(source))

    def _part_name(self, loop_key: str, earlier: Sequence[Stage]) -> str:
        looped = any(isinstance(op, Loop) for stage in earlier for op in stage.ops)
        stem = f"{loop_key.replace('/', '.')}.step" if loop_key else "decode" if looped else "encode"
        used_names = {part.name for part in self.parts}
        return next(name for name in (stem, *(f"{stem}{i}" for i in range(2, 1000))) if name not in used_names)

    def _plan_loop(self, loop: Loop) -> Operation:
        self.items[loop.key] = loop.item
        items = list_example_items(self.value(loop.over))
        if not len(items):
            raise ExportError(
                f"nodes.{loop.key} runs over nothing, so there is no example to trace", "give it an entry or more",
                place=str(loop.mark),
            )  # fmt: skip
        carries = {name: Carry(loop.key, name) for name in loop.carry}
        starts = {name: self.value_names(source) for name, source in loop.carry.items()}
        fixed = {name: plain_fields(self.value(source)) for name, source in loop.carry.items()}
        for name, source in loop.carry.items():
            self.values[carries[name]] = self.value(source)
            self.kinds[carries[name]] = loop.outputs[name]
            for path, value_name in self.field_names(source).items():
                for target in (carries[name], Output(loop.key, name)):
                    self.run_names[f"{self.name(target)}.{path}"] = value_name
        # The second iteration is the example: by then carried values have their final shapes.
        self.enter(loop, items, 0)
        for op in loop.body.values():
            self.evaluate(op)
        self.values.update({carries[name]: self.value(source) for name, source in loop.next.items()})
        self.enter(loop, items, min(1, len(items) - 1))
        try:
            body = self.region(loop.body, loop.roots(), loop.key)
        except NodeError as error:
            if len(items) > 1:
                raise
            raise ExportError(
                f"nodes.{loop.key} runs over one entry, and what the second iteration is given is the example: "
                f"{error.cause}",
                "export with two entries or more (steps, say): the bundle takes other numbers",
                place=str(loop.mark),
            ) from error
        start: dict[str, str] = {}
        links: dict[str, dict[str, str]] = {"next": {}, "collect": {}, "result": {}}
        for name, carry in carries.items():
            carry_names, following = self.value_names(carry), self.value_names(loop.next[name])
            lasting = plain_fields(self.value(loop.next[name]))
            if not [*carry_names] == [*starts[name]] == [*following] or fixed[name] != lasting:
                raise ExportError(
                    f"carry '{name}' of nodes.{loop.key} starts as {_format_structure(starts[name], fixed[name])} "
                    f"and goes on as {_format_structure(following, lasting)}",
                    "start it with a value of the same structure",
                    place=str(loop.mark),
                )
            self.values[Output(loop.key, name)] = self.value(loop.next[name])
            results = self.value_names(Output(loop.key, name))
            for path, value_name in carry_names.items():
                start[value_name], links["next"][value_name] = starts[name][path], following[path]
                links["result"][results[path]] = value_name
        for name, source in loop.collect.items():
            self.values[Output(loop.key, name)] = stack([self.value(source)])
            collected, item_names = self.value_names(Output(loop.key, name)), self.value_names(source)
            links["collect"] |= {collected[path]: value_name for path, value_name in item_names.items()}
        settings: dict[str, Any] = {"item": f"{loop.key}.{loop.item}", "index": f"{loop.key}.index"}
        count = None if self.is_dynamic(loop.over) else self.value(loop.over)
        settings |= {"over": count if isinstance(count, int) else self.value_names(loop.over)[""], **links}
        return Operation("loop", loop.key, start, settings, (*links["result"], *links["collect"]), body)

    def enter(self, loop: Loop, items: Any, i: int) -> None:
        """Set the item and the index of an iteration for the body."""
        self.values[Index(loop.key)] = i
        self.values[Item(loop.key)] = items[i]
        self.kinds[Item(loop.key)] = PortType((_ItemType,))

    def value_names(self, source: Source) -> dict[str, str]:
        """The names of a value's tensors in the run by path; ``{"": name}`` if it has none.

        Tensors that are the same in every run become tables.
        """
        leaves = tensor_leaves(self.value(source))
        base = f"constant.{len(self.host.tables)}" if isinstance(source, Literal) else self.name(source)
        if not self.is_dynamic(source):
            leaves = leaves or [self._number(source, base)]
            self.host.tables |= {leaf.full_name(base): leaf.tensor for leaf in leaves}
        return {leaf.path: leaf.full_name(base) for leaf in leaves} or {"": base}

    def _number(self, source: Source, base: str) -> Leaf:
        """A constant number as a leaf for a table. Raises ``ExportError`` for values that are not numbers."""
        import torch

        value = self.value(source)
        if not is_number(value):
            reason = f"'{base}' is {value!r:.60}, the same in every run, and a bundle keeps tensors and numbers"
            raise ExportError(reason, "give it as a tensor, or leave it a parameter")
        return Leaf("", torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else torch.int64), ())

    def field_names(self, source: Source) -> dict[str, str]:
        """The names in the run of a value's non-tensor fields, by path."""
        if isinstance(source, Literal):
            return {}
        base = self.name(source)
        paths = plain_fields(self.value(source))
        return {path: self.run_names[f"{base}.{path}"] for path in paths if f"{base}.{path}" in self.run_names}

    def value(self, source: Source) -> Any:
        """The example of a source's value."""
        return source.value if isinstance(source, Literal) else self.values[source]


class _ItemType(Tensor):
    """The type of a loop's item: one row for the whole batch."""

    axes = ("B",)


def list_example_items(over: Any) -> Any:
    """The items of a loop's sequence."""
    if isinstance(over, int):
        return range(over)
    return over.unsqueeze(1) if is_tensor(over) and over.ndim == 1 else over


def _format_structure(names: Mapping[str, str], statics: Mapping[str, Any]) -> str:
    plain = [f"{path}={value!r:.40}" for path, value in statics.items()]
    return ", ".join([*(path or "one tensor" for path in names), *plain])

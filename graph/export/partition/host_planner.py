"""The host plan of a workflow: its operations between the graphs, and the parts to trace, from an example run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.loop import stack
from guidegraph.graph.export.errors import ExportError, LeftForRun, NotPassedOn
from guidegraph.graph.export.parameter_bounds import find_input_ranges
from guidegraph.graph.export.partition.example_values import ExampleRun, ExampleValues
from guidegraph.graph.export.partition.guards import find_guards
from guidegraph.graph.export.partition.host_operations import (
    are_siblings,
    find_recipe,
    link_siblings,
    make_host_operation,
    split_call,
)
from guidegraph.graph.export.partition.leaves import plain_fields, tensor_leaves
from guidegraph.graph.export.partition.skipping import find_short_forms, find_unread_inputs
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartPlan, is_number, plan_part
from guidegraph.graph.export.partition.unlike_samples import make_joinable
from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.graph.ir import Call, Choice, Loop, Op, list_calls
from guidegraph.graph.planning.passes import find_branch_conditions
from guidegraph.graph.sources import Carry, Literal, Output, Source
from guidegraph_runtime.bundle.manifest import Operation
from guidegraph_runtime.bundle.manifest_types import JOINS, RANGES
from guidegraph_runtime.declare.choice_words import CHOOSE, WHEN


def make_choice_operation(choice: Choice, examples: ExampleValues) -> Operation:
    """The plan's operation for a choice.

    ``of`` has each branch as ``{"from": {name in the choice: name in the branch}}``, or as ``{"is": value}`` for a
    plain value that is the same in every run. Raises ``ExportError`` if the branches differ in structure.
    """
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    if examples.is_dynamic(choice.when):
        inputs[WHEN] = examples.value_names(choice.when)[""]
    else:
        when = examples.value(choice.when)
        settings[WHEN] = when.item() if hasattr(when, "item") else when
    branches = choice.branches()
    names = {name: _branch_names(choice, source, examples) for name, source in branches.items()}
    _check_same_structure(choice, names, branches, examples)
    base = examples.name(Output(choice.key, "out"))
    result_names = {
        path: f"{base}.{path}" if path else base
        for branch_names in names.values()
        if branch_names
        for path in branch_names
    }
    for path in examples.field_names(next(iter(branches.values()))):
        if path in result_names:
            examples.run_names[result_names[path]] = result_names[path]
    settings["of"] = {
        name: {"from": {result_names[path]: value_name for path, value_name in branch_names.items()}}
        if branch_names
        else {"is": examples.value(branches[name])}
        for name, branch_names in names.items()
    }
    inputs |= {value_name: value_name for branch_names in names.values() for value_name in branch_names.values()}
    return Operation(CHOOSE, choice.key, inputs, settings, tuple(result_names.values()) or (base,))


def _branch_names(choice: Choice, source: Source, examples: ExampleValues) -> dict[str, str]:
    """The names in the run of a branch's values by path; empty for a plain value that is the same in every run."""
    value = examples.value(source)
    if examples.is_dynamic(source) or tensor_leaves(value) or is_number(value):
        return examples.value_names(source) | examples.field_names(source)
    if isinstance(value, (str, bool)) or value is None:
        return {}
    raise NotPassedOn(
        choice.key,
        f"nodes.{choice.key} (choose) gives a {type(value).__name__}, and a bundle passes on tensors, numbers, texts",
        "choose among what the models give instead",
        place=str(choice.mark),
    )


def _check_same_structure(
    choice: Choice, names: dict[str, dict[str, str]], branches: Mapping[str, Source], examples: ExampleValues
) -> None:
    """Raise ``ExportError`` unless all branches have the same fields, with the same values in the constant ones."""

    def structure(name: str) -> tuple[set[str], dict[str, Any]]:
        fields = plain_fields(examples.value(branches[name]))
        fixed = {path: value for path, value in fields.items() if path not in names[name]}
        return set(names[name]) or {""}, fixed

    first, *remaining = branches
    for name in remaining:
        if structure(name) != structure(first):
            raise ExportError(
                f"the branches '{first}' and '{name}' of nodes.{choice.key} give values of different structure: "
                f"{_format_structure(*structure(first))}; {_format_structure(*structure(name))}",
                "give both the same kind of value, or leave it out of the exported outputs (--only)",
                place=str(choice.mark),
            )


def _format_structure(paths: set[str], fixed: dict[str, Any]) -> str:
    plain = [f"{path}={value!r:.40}" for path, value in fixed.items()]
    return ", ".join([*(path or "one value" for path in sorted(paths)), *plain])


@dataclass(frozen=True)
class Stage:
    """One host operation, or the operations of one traced part, in order."""

    ops: tuple[Op, ...]
    traced: bool


def group_stages(ops: Mapping[str, Op], traced: Callable[[Call], bool], roots: Iterable[Source] = ()) -> list[Stage]:
    """Group the operations of a block, which are in topological order and all left for the run.

    The depth of an operation is the largest number of changes from traced to host on a path to it. Traced operations of
    one depth are one part, and host operations run as early as possible. Operations that are needed for different
    branches of choices are separate parts. roots: the sources needed from the block.
    """
    depth: dict[str, int] = {}
    is_traced = {key: not op.has_blocks and traced(op) for key, op in ops.items()}
    for key, op in ops.items():
        level = 0
        for source in op.sources():
            if isinstance(source, Output) and source.op in depth:
                level = max(level, depth[source.op] + (is_traced[source.op] and not is_traced[key]))
        depth[key] = level
    conditions = find_branch_conditions(ops, roots)
    groups: list[Stage] = []
    for level in range(max(depth.values(), default=-1) + 1):
        level_ops = [op for key, op in ops.items() if depth[key] == level]
        groups += [Stage((op,), False) for op in level_ops if not is_traced[op.key]]
        parts: dict[frozenset[tuple[str, str]], list[Op]] = {}
        for op in level_ops:
            if is_traced[op.key]:
                parts.setdefault(conditions[op.key], []).append(op)
        # By decreasing number of branches, since a part that others read has at least all of theirs.
        order = sorted(parts, key=lambda branches: -len(branches) if branches else float("-inf"))
        groups += [Stage(tuple(parts[branches]), True) for branches in order]
    return groups


@dataclass(frozen=True)
class Structure:
    """The structure of a value: the names in the run of its tensors, and its non-tensor fields, both by path."""

    names: Mapping[str, str]
    fields: Mapping[str, Any]

    def describe(self) -> str:
        plain = [f"{path}={value!r:.40}" for path, value in self.fields.items()]
        return ", ".join([*(path or "one tensor" for path in self.names), *plain])


@dataclass
class HostPlanner:
    """Plans the blocks of a workflow, the top level first, and computes their examples on the way.

    hosted: the keys of the dynamic operations that the runtime does. one_graph: all parts will form one graph, whose
    numbers are for all samples. in_run: constant operations that the partition was asked to leave for the run. parts:
    the parts planned so far.
    """

    run: ExampleRun
    hosted: set[str]
    one_graph: bool = False
    in_run: frozenset[str] = frozenset()
    parts: list[PartPlan] = field(default_factory=list)

    @property
    def examples(self) -> ExampleValues:
        return self.run.examples

    def plan_block(self, ops: Mapping[str, Op], roots: Sequence[Source], loop_key: str = "") -> tuple[Operation, ...]:
        """Run a block once and return its host plan. loop_key: of the loop whose body it is; "" for the top level."""
        self.run.evaluate_constants(ops, roots)
        dynamic_ops = self._split(ops)
        for op in dynamic_ops.values():
            self.examples.kinds.update({Output(op.key, name): kind for name, kind in op.outputs.items()})
        plan: list[Operation] = []
        groups = group_stages(dynamic_ops, lambda call: call.key not in self.hosted, roots)
        for number, stage in enumerate(groups):
            if stage.traced:
                for op in stage.ops:
                    self.run.evaluate(op)
                looped = any(op.has_blocks for earlier in groups[:number] for op in earlier.ops)
                stem = f"{loop_key.replace('/', '.')}.step" if loop_key else "decode" if looped else "encode"
                used_names = {part.name for part in self.parts}
                names = (stem, *(f"{stem}{i}" for i in range(2, 1000)))
                name = next(name for name in names if name not in used_names)
                plan.append(self._plan_part(name, stage, list(dynamic_ops.values()), roots, in_loop=bool(loop_key)))
            else:
                plan.append(self._plan_operation(stage.ops[0]))
        return tuple(plan)

    def _plan_operation(self, op: Op) -> Operation:
        """The operation of the plan for one that is not traced."""
        match op:
            case Loop():
                return self._plan_loop(op)
            case Choice():
                self.run.evaluate(op)
                return make_choice_operation(op, self.examples)
            case Call():
                self.run.evaluate(op)
                self.examples.name_fields(op)
                return make_host_operation(op, self.examples)

    def _split(self, ops: Mapping[str, Op]) -> dict[str, Op]:
        """The operations for the run, with those that run partly on the host as a host operation and a traced one.

        Raises ``LeftForRun`` for a constant call that fills up its result to the size of one of these.
        """
        examples = self.examples
        split_ops: dict[str, Op] = {}
        hosted: list[tuple[Call, ExportRecipe]] = []
        for key, op in ops.items():
            if key not in examples.dynamic:
                continue
            if not op.has_blocks and op.spec.split is not None:
                first, second, recipe = split_call(op, examples)
                examples.dynamic.add(first.key)
                self.hosted = (self.hosted - {key}) | {first.key}
                split_ops[first.key] = first
                hosted.append((first, recipe))
                op = second
            split_ops[key] = op
        recipes = [recipe for _, recipe in hosted if recipe.beside]
        for call in list_calls(ops.values()):
            if call.spec.split is None or call.key in examples.dynamic | self.in_run:
                continue
            if recipes and all(Output(call.key, name) in examples.values for name in call.outputs):
                own = find_recipe(call, examples)
                if own is not None and any(are_siblings(own, other) for other in recipes):
                    raise LeftForRun(call.key, str(call.mark))
        split_ops.update({call.key: call for call in link_siblings(hosted, examples)})
        return split_ops

    def _plan_part(
        self, name: str, stage: Stage, ops: Sequence[Op], required: Sequence[Source], *, in_loop: bool
    ) -> Operation:
        """The operation of a part, with its shorter forms. ops: of the block. required: its roots."""
        keys = [op.key for op in stage.ops]
        outside_sources = [s for op in ops if op.key not in keys for s in op.sources()]
        results = [s for s in dict.fromkeys([*outside_sources, *required]) if isinstance(s, Output) and s.op in keys]
        result_examples = [self.examples.example(s) for s in results]
        _check_results(stage, result_examples)
        inputs = self._list_inputs(stage.ops)
        longest = self._add_part(name, stage.ops, inputs, result_examples, in_loop=in_loop)
        if not in_loop or self.one_graph:
            return longest
        forms = []
        for number, form in enumerate(find_short_forms(stage.ops, inputs, results, {op.key for op in ops})):
            form_name = f"{name}.short{number + 1 if number else ''}"
            form_inputs = self._list_inputs(form.ops)
            operation = self._add_part(form_name, form.ops, form_inputs, result_examples, in_loop=True, form_of=name)
            forms.append(replace(operation, settings={WHEN: dict(form.when), **operation.settings}))
        return replace(longest, body=tuple(forms)) if forms else longest

    def _list_inputs(self, ops: Sequence[Op]) -> list[ExampleValue]:
        """What operations read of others, as far as it may change."""
        keys = {op.key for op in ops}
        reads = dict.fromkeys(s for op in ops for s in op.sources() if not (isinstance(s, Output) and s.op in keys))
        return [self.examples.example(s) for s in reads if self.examples.is_dynamic(s)]

    def _add_part(
        self,
        name: str,
        ops: Sequence[Op],
        inputs: Sequence[ExampleValue],
        results: Sequence[ExampleValue],
        *,
        in_loop: bool,
        form_of: str = "",
    ) -> Operation:
        """The operation of a part, which is added to ``parts``. form_of: the part that it is a shorter form of."""
        examples = self.examples
        _check_inputs(ops, inputs)
        keys = {op.key for op in ops}
        constants: dict[Source, Any] = {
            s: examples.values[s]
            for op in ops
            for s in op.sources()
            if not (isinstance(s, Literal) or (isinstance(s, Output) and s.op in keys) or examples.is_dynamic(s))
        }

        def build(values: Sequence[ExampleValue]) -> PartPlan:
            return replace(plan_part(name, ops, values, constants, results, in_loop=in_loop), form_of=form_of)

        settings: dict[str, Any] = {}
        if ranges := find_input_ranges(ops, inputs, constants):
            settings[RANGES] = ranges
        if in_loop and not self.one_graph:
            joinable = make_joinable(ops, inputs, results, build)
            part, inputs, settings[JOINS] = joinable.part, [*joinable.examples], joinable.joins
        else:
            part = build(inputs)
        self.parts.append(part)
        if fields := find_guards(part, inputs, build, examples.run_names):
            settings["fields"] = fields
        if in_loop and (unread := find_unread_inputs(ops, inputs, examples.run_names)):
            settings["unread"] = unread
        links = {part_input.name: part_input.name for part_input in part.inputs}
        return Operation("part", name, links, settings, part.outputs)

    def _plan_loop(self, loop: Loop) -> Operation:
        examples = self.examples
        examples.items[loop.key] = loop.item
        items = examples.list_items(loop, ", so there is no example to trace")
        starts = {name: self._find_structure(source) for name, source in loop.carry.items()}
        self._start_carries(loop)
        body = self._plan_body(loop, items)
        start: dict[str, str] = {}
        links: dict[str, dict[str, str]] = {"next": {}, "collect": {}, "result": {}}
        for name in loop.carry:
            carry_names = examples.value_names(Carry(loop.key, name))
            following = self._find_structure(loop.next[name])
            before = starts[name]
            if not [*carry_names] == [*before.names] == [*following.names] or before.fields != following.fields:
                raise ExportError(
                    f"carry '{name}' of nodes.{loop.key} starts as {before.describe()} and goes on as "
                    f"{following.describe()}",
                    "start it with a value of the same structure",
                    place=str(loop.mark),
                )
            examples.values[Output(loop.key, name)] = examples.value(loop.next[name])
            results = examples.value_names(Output(loop.key, name))
            for path, value_name in carry_names.items():
                start[value_name], links["next"][value_name] = before.names[path], following.names[path]
                links["result"][results[path]] = value_name
        for name, source in loop.collect.items():
            examples.values[Output(loop.key, name)] = stack([examples.value(source)])
            collected, item_names = examples.value_names(Output(loop.key, name)), examples.value_names(source)
            links["collect"] |= {collected[path]: value_name for path, value_name in item_names.items()}
        settings: dict[str, Any] = {"item": f"{loop.key}.{loop.item}", "index": f"{loop.key}.index"}
        count = None if examples.is_dynamic(loop.over) else examples.value(loop.over)
        settings |= {"over": count if isinstance(count, int) else examples.value_names(loop.over)[""], **links}
        return Operation("loop", loop.key, start, settings, (*links["result"], *links["collect"]), body)

    def _find_structure(self, source: Source) -> Structure:
        return Structure(self.examples.value_names(source), plain_fields(self.examples.value(source)))

    def _start_carries(self, loop: Loop) -> None:
        """Set the carries to their initial values; their non-tensor fields have the same names throughout the loop."""
        examples = self.examples
        for name, source in loop.carry.items():
            carry = Carry(loop.key, name)
            examples.values[carry] = examples.value(source)
            examples.kinds[carry] = loop.outputs[name]
            for path, value_name in examples.field_names(source).items():
                for target in (carry, Output(loop.key, name)):
                    examples.run_names[f"{examples.name(target)}.{path}"] = value_name

    def _plan_body(self, loop: Loop, items: Sequence[Any]) -> tuple[Operation, ...]:
        """The plan of the body; the second iteration is the example: by then carried values have their final shapes."""
        examples = self.examples
        examples.enter_iteration(loop, items, 0)
        for op in loop.body.values():
            self.run.evaluate(op)
        examples.values.update({Carry(loop.key, name): examples.value(source) for name, source in loop.next.items()})
        examples.enter_iteration(loop, items, min(1, len(items) - 1))
        try:
            return self.plan_block(loop.body, loop.roots(), loop.key)
        except NodeError as error:
            if len(items) > 1:
                raise
            raise ExportError(
                f"nodes.{loop.key} runs over one entry, and what the second iteration is given is the example: "
                f"{error.cause}",
                "export with two entries or more (steps, say): the bundle takes other numbers",
                place=str(loop.mark),
            ) from error


def _check_inputs(ops: Sequence[Op], inputs: Sequence[ExampleValue]) -> None:
    """Raise ``NotPassedOn`` for an input of a part that is neither a tensor, a number nor a structured value."""
    for example in inputs:
        if not (tensor_leaves(example.value) or is_number(example.value) or plain_fields(example.value)):
            raise NotPassedOn(
                example.source.op if isinstance(example.source, Output) else "",
                f"'{example.name}' is {example.value!r:.60}, no tensor and no number, and "
                f"nodes.{', nodes.'.join(op.key for op in ops)} would be traced with it, though it may be "
                "another at run time",
                "give the node a number or a tensor, or leave it out of the exported outputs (--only)",
                place=str(ops[0].mark),
            )


def _check_results(stage: Stage, results: Sequence[ExampleValue]) -> None:
    """Raise ``ExportError`` for a number that a part would compute from tensors, and others read."""
    for example in results:
        if is_number(example.value):
            raise ExportError(
                f"'{example.name}' is a number that is computed from tensors, and a graph returns tensors",
                "do not collect or return it, or let its node return a tensor",
                place=str(stage.ops[0].mark),
            )

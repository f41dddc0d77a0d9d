"""Read the plan of `bundle.json`, with strict checks of its operations."""

from __future__ import annotations

from collections.abc import Mapping

from guidegraph_runtime.bundle.manifest_types import JOINS, RANGES, Operation, Part, label_problem, read_bounds
from guidegraph_runtime.bundle.strict_json import Cursor
from guidegraph_runtime.declare.choice_words import CHOOSE, WHEN
from guidegraph_runtime.errors import format_value, suggest_name
from guidegraph_runtime.running.choices import Choice
from guidegraph_runtime.running.values import Loop

MAX_BODIES = 8


def read_plan(cursor: Cursor, parts: Mapping[str, Part], levels: int = MAX_BODIES) -> tuple[Operation, ...]:
    """The operations of a plan, whose bodies are at most ``levels`` deep. Raises ``BundleError``."""
    if levels == 0:
        cursor.fail(f"at most {MAX_BODIES} bodies in each other", "more")
    return tuple(_operation(item, parts, levels) for item in cursor.items())


def read_guards(cursor: Cursor) -> None:
    """Check the guards of a part, by the names of the values. Raises ``BundleError``."""
    for _, guard in cursor.entries(label_problem):
        fields = guard.fields(["is"], ["why"])
        if "why" in fields:
            fields["why"].text()


def _operation(cursor: Cursor, parts: Mapping[str, Part], levels: int) -> Operation:
    fields = cursor.fields(["op", "node", "in", "with", "out"], ["body"])
    outputs = tuple(item.name(label_problem) for item in fields["out"].items())
    if len(set(outputs)) < len(outputs):
        fields["out"].fail("each name once")
    operation = Operation(
        op=fields["op"].name(label_problem),
        node=fields["node"].name(label_problem),
        inputs={name: item.name(label_problem) for name, item in fields["in"].entries(label_problem)},
        settings={name: item.value for name, item in fields["with"].entries(label_problem)},
        outputs=outputs,
        body=read_plan(fields["body"], parts, levels - 1) if "body" in fields else None,
    )
    if operation.op in ("loop", CHOOSE):
        try:
            Loop.of(operation) if operation.op == "loop" else Choice.of(operation)
        except ValueError as error:
            fields["with"].fail(f"what makes a {'loop' if operation.op == 'loop' else 'choice'}", str(error))
    if operation.op == "part":
        _check_part_call(fields, operation, parts)
    return operation


def _check_part_call(fields: Mapping[str, Cursor], part: Operation, parts: Mapping[str, Part]) -> None:
    """Check the call of a part, and its shorter forms with their numbers. Raises ``BundleError``."""
    for index, form in enumerate(part.body or ()):
        cursor = fields["body"].at(index)
        if form.op != "part" or form.body is not None:
            cursor.fail("a shorter form of the part, which is a part", form.op)
        if form.outputs != part.outputs:
            cursor.at("out").fail(f"the values of '{part.node}'", ", ".join(form.outputs))
        if not form.settings.get(WHEN):
            cursor.at("with").fail(f"'{WHEN}', the numbers for which this form is run", "none")
        for _, number in cursor.at("with").at(WHEN).entries(label_problem):
            number.number()
    node, settings = fields["node"], fields["with"]
    if node.value not in parts:
        node.fail("the name of a part", f"{format_value(node.value)} ({suggest_name(node.value, parts)})")
    if "fields" in settings.value:
        read_guards(settings.at("fields"))
    if RANGES in settings.value:
        for _, bounds in settings.at(RANGES).entries(label_problem):
            read_bounds(bounds, "float")
    if JOINS in settings.value:
        joins = settings.at(JOINS).fields((), ["why", "indices", "padded"])
        if "why" in joins:
            joins["why"].text()
        for _, axis in joins["indices"].entries(label_problem) if "indices" in joins else ():
            axis.text()
        for axis in joins["padded"].items() if "padded" in joins else ():
            axis.text()

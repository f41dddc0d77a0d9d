"""Checks before a run: values of parameters that do not fit together, and things that this machine lacks.

Shapes are inferred from settings by the nodes' ``shape`` traits. The rules and their messages are the runtime's, so a
bundle refuses the same runs as the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import Parameter, signature
from os.path import normpath
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Call, Graph, Op, walk_calls
from guidegraph.graph.node import READ, SHAPES, WIRED
from guidegraph.graph.planning.passes import (
    call_trait,
    check_ports,
    drop_optional,
    find_known_arguments,
    make_parameter_choices,
    prune,
)
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Literal, Many, Output, Param, Source, Sources, find_value
from guidegraph.graph.types import is_tensor_class, takes_literal
from guidegraph_runtime.admission import SampleCount, Shape, ShapeOnly, find_batch_problem, find_memory_problem
from guidegraph_runtime.limits import limit_message
from guidegraph_runtime.machine.optional_packages import install_command

REFUSED = "refused"
MACHINE_CODES = frozenset({"missing-extra", "missing-file", "missing-part"})
"""Codes of problems of the machine; the workflow itself is valid."""


class _Unknown:
    """The type of a value that is unknown before the run."""


UNKNOWN = _Unknown()


@dataclass
class Extents:
    """The known leading axes of values, and for each the source that sets its number of samples.

    values: of parameters. limit: bytes that one value may take; by default the machine's memory.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    shapes: dict[Sources, Shape] = field(default_factory=dict)
    sources: dict[Sources, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def follow(self, ops: Iterable[Op]) -> None:
        """Infer the shapes of a block's operations, in order, and record the mismatches in ``problems``."""
        for op in ops:
            if op.has_blocks:
                for name, start in op.carry.items():
                    self._add_alias(Carry(op.key, name), start)
                self.follow(op.body.values())
                for name, after in op.next.items():
                    self._add_alias(
                        Output(op.key, name), after if self.shape_of(after) is not None else Carry(op.key, name)
                    )
            elif op.spec.shape is not None or op.spec.batchable:
                try:
                    self._follow_call(op)
                except ValueError as error:
                    self.problems.append(Problem(op.mark, REFUSED, f"{op.spec.id}: {error}", f"nodes.{op.key}"))

    def port_shapes(self, call: Call) -> dict[str, Shape]:
        """The known shapes of a call's input ports."""
        shapes = {name: self.shape_of(sources) for name, sources in call.inputs.items()}
        return {name: shape for name, shape in shapes.items() if shape is not None}

    def shape_of(self, source: Sources) -> Shape | None:
        """The leading axes of a value; ``None`` if they are unknown, and for a list of links."""
        match source:
            case Literal(value):
                pass
            case Param(name):
                value = self.values.get(name)
            case _:
                return self.shapes.get(source)
        kind: Any = type(value)
        return tuple(value.shape) if is_tensor_class(kind) else self.shapes.get(source)

    def _add_alias(self, name: Source, source: Source) -> None:
        if (shape := self.shape_of(source)) is not None:
            self.shapes[name], self.sources[name] = shape, self._format_source(source)

    def _follow_call(self, call: Call) -> None:
        self._check_batch(call)
        for name, shape in self._infer_output_shapes(call).items():
            if (reason := find_memory_problem([ShapeOnly(tuple(shape))], self.limit)) is not None:
                raise ValueError(reason)
            self.shapes[Output(call.key, name)] = tuple(shape)
            self.sources[Output(call.key, name)] = self._describe_sample_source(call, tuple(shape[:1]))

    def _infer_output_shapes(self, call: Call) -> Mapping[str, Shape]:
        """The known shapes of a call's outputs."""
        spec = call.spec
        if spec.shape is None:
            rows = self.port_shapes(call).get(spec.batchable[0], ())[:1]
            return dict.fromkeys(spec.outputs, rows) if rows and len(spec.outputs) == 1 else {}
        arguments = {name: self._read_argument(call, name) for name in spec.shape_arguments}
        if any(isinstance(value, _Unknown) for value in arguments.values()):
            return {}
        shapes = spec.shape(**arguments)
        if shapes is None:
            return {}
        return shapes if isinstance(shapes, Mapping) else {next(iter(spec.outputs)): shapes}

    def _check_batch(self, call: Call) -> None:
        """Check that the ports of a batchable call fit the batch of its first port. Raises ``ValueError``."""
        if not call.spec.batchable:
            return
        shapes = self.port_shapes(call)
        rows = {
            name: SampleCount(shapes[name][0], self._format_source(call.inputs[name]))
            for name in call.spec.batchable
            if shapes.get(name)
        }
        first, *remaining = call.spec.batchable
        if first not in rows:
            return
        count = rows[first]
        subject = f"{count.source} has {count.count:,} samples for one call"
        if (message := limit_message("samples", count.count, subject)) is not None:
            raise ValueError(message)
        if (reason := find_batch_problem(rows[first], [rows[name] for name in remaining if name in rows])) is not None:
            raise ValueError(reason)

    def _read_argument(self, call: Call, name: str) -> Any:
        """The argument that the trait ``shape`` gets for a port or setting."""
        source, port = call.settings[name] if name in call.settings else call.inputs.get(name), call.spec.ports[name]
        if source is None:
            return UNKNOWN if port.required else port.default
        if isinstance(source, Many):
            values = [self._read_value(item, port) for item in source.sources]
            return UNKNOWN if any(isinstance(item, _Unknown) for item in values) else values
        return self._read_value(source, port)

    def _read_value(self, source: Source, port: Port) -> Any:
        value = find_value(source, self.values, UNKNOWN)
        if value is UNKNOWN:
            return ShapeOnly(self.shapes[source]) if source in self.shapes else UNKNOWN
        if isinstance(value, str) and port.type.takes_enum:
            value = port.literal(value)
        kind: Any = type(value)
        return value if is_tensor_class(kind) or takes_literal(port.type) or value is None else UNKNOWN

    def _describe_sample_source(self, call: Call, rows: Shape) -> str:
        """The source that sets the number of samples: a parameter's list, a port's value, or the node, as text."""
        lists = {n: len(v) for n, v in self.values.items() if isinstance(v, (list, tuple)) and (len(v),) == rows}
        for name, port in call.parameters() if lists else ():
            if name in lists and _takes_one_or_list(port):
                return f"'{name}' ({lists[name]} values)"
        many = [source for source in call.sources() if (self.shape_of(source) or ())[:1] not in ((), (1,))]
        return self._format_source(many[0]) if many else f"'{call.key}'"

    def _format_source(self, source: Sources) -> str:
        """A value's name in a message."""
        match source:
            case Param(name):
                return f"'{name}'"
            case Literal() | Many():
                return "a literal"
        return self.sources.get(source, "a value")


def _takes_one_or_list(port: Port) -> bool:
    """Whether a port takes one value or a list of them, as for samples; a list alone is a shape, say."""
    return port.type.sequence is not None and len(port.type.alternatives) > 1


def _list_shape_problems(ops: Mapping[str, Op], values: Mapping[str, Any], limit: int | None = None) -> list[Problem]:
    """Shapes that do not fit together or are too large. A parameter without a value is unknown."""
    extents = Extents(values, limit)
    extents.follow(ops.values())
    return extents.problems


def _list_machine_problems(ops: Mapping[str, Op], values: Mapping[str, Any]) -> list[Problem]:
    """Optional packages, input files and model parts that a run needs and this machine lacks."""
    checked = [call for call in walk_calls(ops) if call.spec.has_requirements]
    if not checked:
        return []
    calls = walk_calls(ops)
    # Files that the same run writes may exist by the time they are read.
    written = {path for call in calls if not call.spec.pure for path in _list_paths(call, values)}
    readers = _find_readers(calls)
    problems: list[Problem] = []
    for call in checked:
        read = readers.get(call.key, [])
        call_problems = [
            *_check_extras(call, values, {output for _, _, output in read}),
            *_check_files(call, values, written),
        ]
        if not call_problems and written.isdisjoint(_list_paths(call, values)):
            call_problems = list(_check_parts(call, values, read))
        problems += call_problems
    return problems


def _find_readers(calls: Iterable[Call]) -> dict[str, list[tuple[Call, str, str]]]:
    """By operation, the calls that read one of its outputs: the call, its port, and the output's name."""
    readers: dict[str, list[tuple[Call, str, str]]] = {}
    for call in calls:
        for name, source in call.links():
            if isinstance(source, Output):
                readers.setdefault(source.op, []).append((call, name, source.name))
    return readers


def list_admission_problems(
    graph: Graph, values: Mapping[str, Any], only: Collection[str] | None = None
) -> list[Problem]:
    """All problems of a run of some outputs (by default all) with these values of parameters."""
    if not (graph.traits.shapes or graph.traits.requirements):
        return []
    ops = _select_certain_ops(graph, values, only)
    return [*_list_shape_problems(ops, values), *_list_machine_problems(ops, values)]


def check_shapes(graph: Graph, values: Mapping[str, Any], only: Collection[str] | None = None) -> None:
    """Raise ``WorkflowError`` for values that do not fit together or are too large."""
    if not graph.traits.shapes:
        return
    if problems := _list_shape_problems(_select_certain_ops(graph, values, only), values):
        raise WorkflowError(problems)


def check_machine(ops: Mapping[str, Op]) -> None:
    """Raise ``WorkflowError`` for operations that this machine cannot run."""
    if problems := _list_machine_problems(ops, {}):
        raise WorkflowError(problems)


def _select_certain_ops(graph: Graph, values: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Op]:
    """The operations that a run of some outputs needs whichever branches it takes later."""
    roots = [output.source for name, output in graph.outputs.items() if only is None or name in only]
    after_choices = make_parameter_choices(graph.ops, roots, values)
    roots = [after_choices.source(source) for source in roots]
    return drop_optional(prune(after_choices.ops, roots, effects=only is None), roots)


def _check_extras(call: Call, values: Mapping[str, Any], read: Collection[str]) -> Iterator[Problem]:
    extras = call.spec.extras
    if callable(extras):
        arguments = _read_arguments(call, signature(extras).parameters, values, read)
        extras = None if arguments is None else extras(**arguments)
    for module, extra in (extras or {}).items():
        if find_spec(module) is None:
            message = f"{call.spec.id} needs {module}, which is not installed: {install_command(extra)}"
            yield Problem(call.mark, "missing-extra", message, f"nodes.{call.key}")


def _check_files(call: Call, values: Mapping[str, Any], written: Collection[Path]) -> Iterator[Problem]:
    """Missing files that a call reads."""
    for name, source in call.settings.items() if call.spec.pure else ():
        value = find_value(source, values, UNKNOWN)
        if isinstance(value, Path) and value not in written and not value.exists():
            subject, remedy, key = f"'{name}'", "write the path of one that is", "with"
            if isinstance(source, Param):
                subject, remedy, key = f"parameter '{source.name}'", f"make it, or give --set {source.name}=…", "in"
            message = f"{call.spec.id}: {subject} names '{normpath(value)}', which is not there: {remedy}"
            mark = call.marks.get(name, call.mark)
            yield Problem(mark, "missing-file", message, f"nodes.{call.key}.{key}.{name}")


def _check_parts(call: Call, values: Mapping[str, Any], readers: Iterable[tuple[Call, str, str]]) -> Iterator[Problem]:
    """The first output that another call reads but this one does not provide; the message names the others."""
    provides = call.spec.provides
    arguments = _read_arguments(call, signature(provides).parameters, values, ()) if provides else None
    if provides is None or arguments is None:
        return
    try:
        provided = provides(**arguments)
    except (ValueError, OSError) as error:
        yield Problem(call.mark, "missing-part", f"{call.spec.id}: {error}", f"nodes.{call.key}")
        return
    missing = [(reader, port, output) for reader, port, output in readers if output not in provided]
    if not missing:
        return
    reader, port, output = missing[0]
    also_missing = dict.fromkeys(f"'{name}'" for _, _, name in missing if name != output)
    also = f", nor {', '.join(also_missing)}" if also_missing else ""
    message = (
        f"nodes.{call.key} ({call.spec.id}) has no '{output}' here, which port '{port}' of {reader.spec.id} "
        f"takes{also}; it has {', '.join(provided) or 'nothing'}"
    )
    yield Problem(reader.marks.get(port, reader.mark), "missing-part", message, f"nodes.{reader.key}.in.{port}")


def _list_paths(call: Call, values: Mapping[str, Any]) -> Iterator[Path]:
    """The files and folders that a call's settings name."""
    for source in call.settings.values():
        value = find_value(source, values, UNKNOWN)
        if isinstance(value, Path):
            yield value


def _read_arguments(
    call: Call, names: Iterable[str], values: Mapping[str, Any], read: Collection[str]
) -> dict[str, Any] | None:
    """Known settings of a call by name, and ``read`` under the name ``READ``; ``None`` if a setting is unknown."""
    arguments: dict[str, Any] = {}
    for name in names:
        source = call.settings.get(name)
        if name == READ:
            arguments[name] = read
        elif source is None:
            arguments[name] = call.spec.settings[name].default
        elif isinstance(value := find_value(source, values, UNKNOWN), _Unknown):
            return None
        else:
            arguments[name] = value
    return arguments


def check_wiring(ops: Iterable[Op], values: Mapping[Source, Any], extents: Extents | None = None) -> None:
    """Raise ``WorkflowError`` for calls, in loop bodies too, whose wiring is wrong for these values.

    values: the known values of links. extents: the known shapes. Calls for which too little is known pass.
    """
    known_shapes = extents or Extents()
    problems: list[Problem] = []
    for call in walk_calls({op.key: op for op in ops}):
        if call.spec.check:
            problems += _find_problems(call, values, known_shapes)
    if problems:
        raise WorkflowError(problems)


def _list_checked_sources(ops: Iterable[Op]) -> set[Source]:
    """The computed values that the calls' ``check`` traits take as arguments."""
    calls = walk_calls({op.key: op for op in ops})
    sources: set[Source] = set()
    for call in calls:
        for name in call.spec.check_arguments:
            source = call.settings[name] if name in call.settings else call.inputs.get(name)
            if isinstance(source, Output):
                sources.add(source)
    return sources


class WiringChecks:
    """The wiring checks of a block, made as soon as the values that they need are computed.

    bound: the operations before the passes, from which shapes are inferred.
    """

    def __init__(self, ops: Mapping[str, Op], bound: Mapping[str, Op]):
        self.ops = ops
        self.extents: Extents | None = None
        self.pending = [call for call in walk_calls(ops) if call.spec.check] if ops else []
        self.awaited = _list_checked_sources(self.pending) if self.pending else set()
        if self.awaited:
            self.extents = Extents()
            self.extents.follow(bound.values())
        self.known: dict[Source, Any] = {}

    def check(self, values: Mapping[Source, Any]) -> None:
        """Check the calls, in later loops too, whose arguments are now known. Raises ``WorkflowError``."""
        if not self.awaited or self.awaited.isdisjoint(values):
            return
        self.known.update((source, value) for source, value in values.items() if source in self.awaited)
        check_wiring(self.ops.values(), self.known, self.extents)
        # Drop values that no pending check needs: they may be models.
        self.pending = [call for call in self.pending if not _list_checked_sources([call]) <= self.known.keys()]
        self.awaited = _list_checked_sources(self.pending)
        self.known = {source: value for source, value in self.known.items() if source in self.awaited}


def order_for_checks(ops: Mapping[str, Op]) -> dict[str, Op]:
    """The operations, with those whose values a ``check`` needs moved to the front.

    The order stays as it is if an operation with effects would move. A ``check`` that also takes shapes is left out: it
    needs a model, which should not be loaded earlier for it.
    """
    calls = [call for call in walk_calls(ops) if call.spec.check]
    sources = _list_checked_sources(
        call for call in calls if SHAPES not in signature(call.spec.check or len).parameters
    )
    first = find_dependencies(ops, sources)
    return {**first, **ops} if all(op.is_pure for op in first.values()) else dict(ops)


def _find_wired(call: Call, values: Mapping[Source, Any]) -> frozenset[str]:
    """The ports and settings that are wired to a value; those known to be None do not count."""

    def is_fed(source: Sources) -> bool:
        if isinstance(source, Literal):
            return source.value is not None
        return isinstance(source, Many) or values.get(source, source) is not None

    return frozenset(name for name, source in call.arguments() if is_fed(source))


def _find_problems(call: Call, values: Mapping[Source, Any], extents: Extents) -> Iterator[Problem]:
    check = call.spec.check
    assert check is not None
    parameters = signature(check).parameters
    needed = [name for name in call.spec.check_arguments if parameters[name].default is Parameter.empty]
    arguments = find_known_arguments(call, call.spec.check_arguments, values)
    if not arguments.keys() >= {*needed}:
        return
    wired = _find_wired(call, values)
    if WIRED in parameters:
        arguments[WIRED] = wired
    if SHAPES in parameters:
        arguments[SHAPES] = extents.port_shapes(call)
    messages = call_trait(call, "check", check, arguments)
    if messages == {}:
        return
    check_ports(call, "check", [name for name in messages if name not in call.spec.settings])
    for name, message in messages.items():
        code = "unfit-port" if name in wired else "missing-port"
        kind = "port" if name in call.spec.inputs else "setting"
        text = f"{call.spec.id}: {kind} '{name}': {message}"
        yield Problem(call.marks.get(name, call.mark), code, text, f"nodes.{call.key}")

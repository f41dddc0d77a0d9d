"""The origin of a loop's state: its items, the starts of its carries, and the models that it uses.

These belong to a state: another number of steps, sampler, batch, seed of the start or model is meaningless in the
middle of a loop. Everything else that the body reads may change; it is described too, so that a run that resumed with a
change can say so. An origin is plain JSON, kept with the state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph, Loop, Op, find_loops, walk, walk_calls
from guidegraph.graph.planning.digest import path_digest
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.sources import Literal, Many, Output, Param, Sources, list_parameters, list_sources
from guidegraph.graph.stopping.choose_loop import find_run_ops, list_stoppable_loops, resume_loop
from guidegraph.graph.stopping.loop_state import REFUSED, LoopState
from guidegraph.graph.types import SequenceOf
from guidegraph.graph.values.serialise import NotSerialisable, encode, file_checksum

Json: TypeAlias = dict[str, Any]


def check_origin(origin: Json) -> None:
    """Compare an origin with itself. Raises ``KeyError``, ``TypeError`` or ``AttributeError`` for other JSON."""
    OriginComparison("", origin, origin, frozenset()).compare()


def describe_origin(ops: Mapping[str, Op], values: Mapping[str, Any], loop: Loop) -> Json:
    """The origin of a loop's state as JSON.

    ops: the top-level operations that the run needs, without branches that are not taken. values: of parameters.
    ``nodes`` has every operation of the top level that the loop depends on, at any distance. ``body`` has the calls in
    the bodies of the loop and of the loops before it.
    """
    pending, upstream = [*loop.dependencies], dict[str, Op]()
    while pending:
        key = pending.pop()
        if key in ops and key not in upstream:
            upstream[key] = ops[key]
            pending += ops[key].dependencies
    loops = find_loops([loop, *upstream.values()])
    inner = walk_calls(loops)
    described = {*upstream, *(op.key for op in walk(loops))}
    return {
        "over": _describe_source(loop.over, values),
        "carry": {name: _describe_source(source, values) for name, source in loop.carry.items()},
        "collect": sorted(loop.collect),
        "nodes": {key: _describe_op(op, values, described) for key, op in upstream.items()},
        "models": _list_models(upstream, loop),
        "body": {op.key: _describe_op(op, values, described) for op in inner},
    }


def _describe_op(op: Op, values: Mapping[str, Any], described: Collection[str]) -> Json:
    """A call with its arguments, or a loop with its items and the starts of its carries.

    described: the keys of all described operations. An argument that links to another is a branch that is not taken.
    """
    if op.has_blocks:
        starts = {f"carry.{name}": _describe_source(source, values) for name, source in op.carry.items()}
        return {"use": "loop", "version": "", "arguments": {"over": _describe_source(op.over, values), **starts}}
    arguments = {
        name: _describe_source(sources, values)
        if all(source.op in described for source in list_sources(sources) if isinstance(source, Output))
        else {"branch": "not taken"}
        for name, sources in op.arguments()
    }
    return {"use": op.spec.id, "version": f"{op.spec.distribution} {op.spec.version}", "arguments": arguments}


def _describe_source(source: Sources, values: Mapping[str, Any]) -> Json:
    match source:
        case Many(sources):
            return {"list": [_describe_source(element, values) for element in sources]}
        case Output(op, name):
            return {"node": op, "output": name}
        case Param(name):
            return {"param": name, "value": describe_constant(values.get(name))}
        case Literal(value):
            return {"value": describe_constant(value)}
    return {"inner": str(source)}


def describe_constant(value: Any) -> Any:
    """A constant as JSON that is equal for equal values: files by their contents, tensors by a checksum."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return {"file": path_digest(value), "name": value.name}
    if isinstance(value, (list, tuple)):
        return [describe_constant(element) for element in value]
    if isinstance(value, dict):
        return {str(key): describe_constant(element) for key, element in value.items()}
    try:
        tensors, tree = encode(value)
    except NotSerialisable:
        return {"object": type(value).__qualname__}
    copies = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    return {"object": type(value).__qualname__, "checksum": file_checksum({"tree": str(tree)}, copies)}


def is_same(before: Any, now: Any) -> bool:
    """Whether two descriptions of constants or whole origins are equal, in any order of keys. NaN equals itself."""
    return json.dumps(before, sort_keys=True) == json.dumps(now, sort_keys=True)


def _list_models(upstream: Mapping[str, Op], loop: Loop) -> list[Json]:
    """The models that the loop uses, directly or through other operations, from nodes that depend on no other node."""
    sources = [source for op in (loop, *upstream.values()) for source in op.sources()]
    read = {source for source in sources if isinstance(source, Output) and source.op in upstream}
    models = []
    for source in sorted(read, key=lambda source: (source.op, source.name)):
        op = upstream[source.op]
        if not op.has_blocks and not op.dependencies:
            kinds = [kind for kind in op.outputs[source.name].alternatives if not isinstance(kind, SequenceOf)]
            if any(getattr(kind, "_is_protocol", False) for kind in kinds):  # models are typed by protocols
                models.append({"type": str(op.outputs[source.name]), "node": source.op})
    return models


@dataclass
class OriginComparison:
    """The differences of two origins: (the path of the present node or loop, the name of its argument, the words).

    needed: the present operations that still run after the state; what they give may change, where a carry started.
    """

    loop: str
    before: Json
    now: Json
    needed: frozenset[str]
    differences: list[tuple[str, str, str]] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def compare(self) -> list[tuple[str, str, str]]:
        """All differences that the state cannot take, each once."""
        before, now = self.before, self.now
        self._follow([(before["over"], now["over"], self.loop, "over")], frozenset())
        for group, missing, new in (
            ("carry", {*before["carry"]} - {*now["carry"]}, {*now["carry"]} - {*before["carry"]}),
            ("collect", {*before["collect"]} - {*now["collect"]}, {*now["collect"]} - {*before["collect"]}),
        ):
            for name in sorted(missing):
                self._add(self.loop, group, f"it had the {group} '{name}', and has it no more")
            for name in sorted(new):
                self._add(self.loop, group, f"it had no {group} '{name}', and has one now")
        shared = [name for name in now["carry"] if name in before["carry"]]
        self._follow([(before["carry"][n], now["carry"][n], self.loop, f"carry.{n}") for n in shared], self.needed)
        self._compare_models()
        return self.differences

    def _add(self, key: str, argument: str, message: str) -> None:
        if (key, argument, message) not in self.differences:
            self.differences.append((key, argument, message))

    def _follow(self, pairs: list[tuple[Json, Json, str, str]], allowed: frozenset[str]) -> None:
        """Compare sources, and the nodes that they come from. Each pair: before, now, and the reader with its port."""
        pending = [*pairs]
        while pending:
            before, now, reader, port = pending.pop()
            if "node" in before and "node" in now and before["output"] == now["output"]:
                pair = before["node"], now["node"]
                if pair not in self._seen and now["node"] not in allowed:
                    self._seen.add(pair)
                    pending += self._compare_nodes(*pair)
            elif "list" in before and "list" in now and len(before["list"]) == len(now["list"]):
                pending += [(a, b, reader, port) for a, b in zip(before["list"], now["list"], strict=True)]
            elif "value" in before and "value" in now:
                if not is_same(before["value"], now["value"]):
                    self._add(reader, port, _describe_change(port, before, now))
            elif before != now:
                self._add(reader, port, f"'{port}' is linked to something else than before")

    def _compare_nodes(self, before: str, now: str) -> list[tuple[Json, Json, str, str]]:
        """Compare two nodes, with differences added. Returns the pairs of their arguments."""
        old, new = self.before["nodes"][before], self.now["nodes"][now]
        if old["use"] != new["use"]:
            self._add(now, "use", f"it was {old['use']}, and is {new['use']} now")
            return []
        if old["version"] != new["version"]:
            self._add(now, "use", f"{new['use']} was that of {old['version']}, and is that of {new['version']} now")
            return []
        for name in sorted({*old["arguments"]} ^ {*new["arguments"]}):
            state = "was set, and is not" if name in old["arguments"] else "was not set, and is"
            self._add(now, name, f"'{name}' {state} now")
        return [(old["arguments"][n], new["arguments"][n], now, n) for n in old["arguments"] if n in new["arguments"]]

    def _compare_models(self) -> None:
        """Find models in whose place there are others of their type; further models may come, and some may go.

        A node that had another model is one; so is a new model of a type of which an old one is gone.
        """
        before, now = _describe_models(self.before), _describe_models(self.now)
        reported = {key for key, _, _ in self.differences}
        for kind, old in before.items():
            new = now.get(kind, {})
            replacements = [key for key, model in new.items() if old.get(key, model) != model]
            if any(model not in new.values() for model in old.values()):
                replacements += [key for key, model in new.items() if model not in old.values()]
            if replacements and reported.isdisjoint(replacements):
                self._add(replacements[0], "use", f"its {kind} is another model than before")


def _describe_models(origin: Json) -> dict[str, dict[str, str]]:
    """For each type of model, the nodes that give one, each with a text that is the same for the same model."""
    texts: dict[str, dict[str, str]] = {}
    for model in origin["models"]:
        node = origin["nodes"][model["node"]]
        arguments = {name: argument.get("value", argument) for name, argument in node["arguments"].items()}
        text = json.dumps([node["use"], node["version"], arguments], sort_keys=True)
        texts.setdefault(model["type"], {})[model["node"]] = text
    return texts


def _describe_change(port: str, before: Json, now: Json) -> str:
    param = f" (params.{now['param']})" if "param" in now else ""
    texts: list[str] = []
    for value in (before["value"], now["value"]):
        if isinstance(value, dict) and "file" in value:
            texts.append(f"'{value.get('name')}'")
        else:
            text = str(value)
            texts.append(text if len(text) <= 60 else text[:59] + "…")
    if texts[0] == texts[1]:
        return f"'{port}' has another content than before{param}"
    return f"'{port}' was {texts[0]}, and is {texts[1]} now{param}"


def read_origin(graph: Graph, values: Mapping[str, Any], only: Collection[str] | None, loop: str) -> Json:
    """The origin of the state of a loop in this run."""
    needed = find_run_ops(graph, values, only)
    return describe_origin(needed, values, find_loops(needed.values())[loop])


def check_resume(
    graph: Graph,
    values: Mapping[str, Any],
    only: Collection[str] | None,
    state: LoopState,
    origin: Json,
    changed: Collection[str],
) -> None:
    """Raise ``WorkflowError`` that names each change which the state cannot take.

    origin: of the state. changed: the parameters that have other values than in the run that was stopped. A
    change that only finished work would read is a problem too, since it would have no effect.
    """
    needed = find_run_ops(graph, values, only)
    loop = find_loops(needed.values()).get(state.loop)
    if loop is None or not loop.can_stop:
        remedy = suggest(state.loop, list_stoppable_loops(needed), "loops")
        message = f"the state is of the loop '{state.loop}', which this run does not have; {remedy}"
        raise WorkflowError([Problem(Mark(str(graph.file), 1, 1), REFUSED, message)])
    now = describe_origin(needed, values, loop)
    remaining: dict[str, Op] = {}
    if {*now["carry"]} == {*state.read_carry()}:
        remaining = find_needed_ops(resume_loop(graph, state), only or [*graph.outputs], values)
    differences = OriginComparison(state.loop, origin, now, frozenset(remaining)).compare()
    belongs = f"the state after {state.done} of {state.total} iterations belongs to what it was"
    problems = [
        Problem(needed[key].mark_of(argument), REFUSED, f"nodes.{key}: {words}; {belongs}", f"nodes.{key}")
        for key, argument, words in differences
    ]
    if not problems:
        unread = f"nothing after {state.done} iterations of nodes.{state.loop} reads it"
        idle = _list_params(graph, needed) - _list_params(graph, remaining)
        problems = [
            Problem(graph.params[name].mark, REFUSED, f"'{name}' was changed, but {unread}", f"params.{name}")
            for name in changed
            if name in idle
        ]
    if problems:
        raise WorkflowError(problems)


def find_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the values that two sets do not share or in which they differ."""
    described = [{name: describe_constant(value) for name, value in values.items()} for values in (before, now)]
    return sorted(
        name
        for name in {*before, *now}
        if name not in before or name not in now or not is_same(described[0][name], described[1][name])
    )


def _list_params(graph: Graph, ops: Mapping[str, Op]) -> set[str]:
    """The parameters that operations or outputs read."""
    sources = [source for op in walk(ops) for source in op.sources()]
    sources += [output.source for output in graph.outputs.values()]
    return set(list_parameters(sources))

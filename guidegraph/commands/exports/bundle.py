"""``export``: a workflow as a bundle that runs without torch."""

from __future__ import annotations

import io
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from guidegraph.commands.exports.steps import (
    ExportArguments,
    bundle_kind,
    check_extra,
    check_generators,
    collect_bundle_versions,
    describe_export_error,
    format_difference,
    format_table,
    name_ports,
    parse_precision,
    prepare_export,
    print_part,
    run_engine,
    translate_export_errors,
)
from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import GuidegraphError, NodeError, Problem, WorkflowError
from guidegraph.graph.execution.watched_sizes import use_viewer
from guidegraph.graph.export.bundle import check_bundle_path, write_bundle
from guidegraph.graph.export.compare_outputs import PartCheck, choose_tolerance, compare_outputs, to_array
from guidegraph.graph.export.file_stems import choose_stems
from guidegraph.graph.export.one_node import export_call, find_calls
from guidegraph.graph.export.workflow import Exported, export_workflow
from guidegraph.graph.ir import Graph, Loop, find_loops, list_calls, walk
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.sources import Index, Item, Source, list_parameters, list_sources
from guidegraph.graph.trust.file_checks import lock_output
from guidegraph.runs.recipe import portable_params
from guidegraph_runtime.bundle.folder import write_costs
from guidegraph_runtime.bundle.manifest import Reference
from guidegraph_runtime.bundle.manifest_types import COSTS
from guidegraph_runtime.bundle.preview import fit_preview
from guidegraph_runtime.files.atomic_write import write_bytes
from guidegraph_runtime.machine.memory import show_size
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.running.measure_costs import measure_costs, replay
from guidegraph_runtime.sessions.sessions import SessionSettings

if TYPE_CHECKING:
    from guidegraph.graph.trust.policy import Policy
    from guidegraph_runtime.bundle.manifest import Manifest, Preview

REFERENCE = "reference"


CheckPlan: TypeAlias = "Callable[[Exported, Mapping[str, str], Mapping[str, str]], None]"
"""Checks an export, with the type of each output and the precision of parts: before its parts are traced, and after."""


def export_bundle(arguments: ExportArguments, check_plan: CheckPlan | None = None) -> None:
    """Export a workflow as a bundle.

    Raises ``WorkflowError`` if it cannot be exported, and ``typer.Exit`` if the check fails.
    """
    with ExitStack() as stack:  # holds the lock on the bundle's folder until the check is over
        check_extra()
        opened = arguments.request.open()
        graph = opened.graph
        problems: list[Problem] = []
        target = find_single_node(graph, arguments.only, problems)
        precision = parse_precision(arguments, problems)
        prepared = prepare_export(arguments, opened, problems, target)
        values, policy = prepared.values, prepared.session.config.policy
        with translate_export_errors(graph):
            try:
                check_bundle_path(arguments.bundle)
            except GuidegraphError as error:
                problem = argument_problem("not-a-bundle", describe_export_error(error), "--output")
                raise WorkflowError([problem]) from error
            stack.enter_context(lock_output(arguments.bundle, "guidegraph export"))

            def check(planned: Exported) -> None:
                check_generators(graph, planned)
                if check_plan is not None:
                    check_plan(planned, {name: bundle_kind(graph, name) for name in planned.outputs}, precision)

            if target:
                exported = export_call(graph, values, target, precision=precision, on_part=print_part, policy=policy)
            else:
                exported = export_workflow(
                    graph,
                    values,
                    only=arguments.only,
                    precision=precision,
                    on_part=print_part,
                    on_plan=check,
                    policy=policy,
                )
            check(exported)
            kinds = {name: bundle_kind(graph, name) for name in exported.outputs}
            offered = deque[Any](maxlen=1)
            with use_viewer(offered.append):
                short, engine = _run_engine(exported, arguments, policy)
            reference, files = _reference(exported, short, engine) if arguments.reference else (None, {})
            versions = collect_bundle_versions(graph, opened.registry)
            preview = _fit_preview(exported, kinds, engine, offered)
            manifest = write_bundle(
                exported,
                arguments.bundle,
                kinds=kinds,
                ports=name_ports(graph, opened.registry, kinds),
                versions=versions,
                reference=reference,
                preview=preview,
                more=files,
            )
        for line in summary(exported, manifest):
            print_text(line)
        print_text(f"wrote {arguments.bundle} ({show_size(sum(file.size for file in manifest.files.values()))})")
        calls: dict[str, Mapping[str, Any]] = {}
        matches = (
            _check(exported, arguments.bundle, engine, kinds, calls)
            if arguments.check
            else reference is None or _replay_matches(arguments.bundle, short, calls)
        )
        _add_costs(arguments.bundle, calls)
        if not matches:
            raise typer.Exit(1)


def find_single_node(graph: Graph, only: list[str] | None, problems: list[Problem]) -> str:
    """The node or model port named by ``--only``, or "" if it names outputs or nothing. Appends to ``problems``."""
    if only is None or len(only) != 1 or only[0] in graph.outputs:
        return ""
    matches = find_calls(graph, only[0])
    if len(matches) > 1:
        keys = ", ".join(call.key for call in matches)
        message = f"'{only[0]}' names {len(matches)} nodes: {keys}; give one of these"
        problems.append(argument_problem("ambiguous-name", message, "--only"))
    return only[0] if matches else ""


def _run_engine(
    exported: Exported, arguments: ExportArguments, policy: Policy
) -> tuple[dict[str, int], dict[str, Any]]:
    """The engine's outputs for the comparison, and the inputs by which its run is shorter than the example.

    With ``--check`` it is the whole example, for how far errors add up over all steps.
    """
    if not arguments.check and not arguments.reference:
        return {}, {}
    short = {} if arguments.check else shorten_run(exported)
    if short:
        try:
            return short, run_engine(replace(exported, values={**exported.values, **short}), policy)
        except NodeError:  # a node needs more iterations
            pass
    return {}, run_engine(exported, policy)


def _reference(
    exported: Exported, short: Mapping[str, int], engine: Mapping[str, Any]
) -> tuple[Reference, dict[str, bytes]]:
    files = _name_arrays({name: to_array(example) for name, example in exported.examples.items()}, "input-")
    results = _name_arrays({name: to_array(engine[name]) for name in exported.outputs})
    inputs = {name: short.get(name, example.default) for name, example in exported.inputs.items()}
    inputs |= {name: file for name, (file, _) in files.items()}
    outputs = {name: file for name, (file, _) in results.items()}
    contents = dict([*files.values(), *results.values()])
    return Reference(inputs, outputs, choose_tolerance(exported)), contents


def _name_arrays(arrays: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[str, bytes]]:
    """For each array, the name of its file in the bundle and the contents."""
    import numpy as np

    stems = choose_stems(arrays)
    files: dict[str, tuple[str, bytes]] = {}
    for name, array in arrays.items():
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        files[name] = (f"{REFERENCE}/{prefix}{stems[name]}.npy", data.getvalue())
    return files


def _fit_preview(
    exported: Exported, kinds: Mapping[str, str], engine: Mapping[str, Any], offered: Sequence[Any]
) -> Preview | None:
    """A preview of the first picture, fitted to the engine's run. offered: its last x̂0; empty without one."""
    picture = next((name for name, kind in kinds.items() if kind == "image"), "")
    if not offered or picture not in engine:
        return None
    return fit_preview(exported.plan, exported.outputs[picture], to_array(offered[0]), to_array(engine[picture]))


def summary(exported: Exported, manifest: Manifest) -> Iterator[str]:
    """Lines that list the bundle's inputs, and the fixed parameters with their reasons."""
    for name, input_ in manifest.inputs.items():
        kind = " or ".join((input_.type, *input_.other_kinds))
        default = "required" if input_.required else f"default {json.dumps(input_.default, ensure_ascii=False)}"
        bounds = "" if input_.bounds is None else f",{input_.bounds.describe()}"
        yield f"input {name}: {kind}, {default}{bounds}"
    values = portable_params(exported.values)
    for name, reason in manifest.fixed.items():
        yield f"fixed {name} = {json.dumps(values.get(name), ensure_ascii=False)}: {reason}"


def _add_costs(path: Path, calls: Mapping[str, Mapping[str, Any]]) -> None:
    """Measure the memory and time of each part at two sizes, for servers to plan with, and write them to the bundle.

    calls: the inputs of a call of each part.
    """
    if not calls:
        return
    if costs := measure_costs(Bundle(path, SessionSettings.on("cpu")), calls):
        write_bytes(path / COSTS, write_costs(costs))


def _check(
    exported: Exported,
    path: Path,
    engine: Mapping[str, Any],
    kinds: Mapping[str, str],
    calls: dict[str, Mapping[str, Any]],
) -> bool:
    """Run the bundle on the example and print its differences from torch. True if all are within tolerance.

    calls: is given the inputs of the first call of each part.
    """
    bundle = Bundle(path, SessionSettings.on("cpu"))
    inputs = {
        name: bundle.load_value(name, difference.default)
        for name, difference in exported.inputs.items()
        if not difference.required
    }
    inputs |= {name: to_array(example) for name, example in exported.examples.items()}
    check = PartCheck(exported)
    started = time.perf_counter()

    def observe(part: str, part_inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        calls.setdefault(part, part_inputs)
        check(part, part_inputs, outputs)

    differences = compare_outputs(bundle.run_with(inputs, observer=observe), engine, kinds, choose_tolerance(exported))
    rows = [
        (part, name, f"{difference.absolute:.1e}", f"{difference.relative:.1e}")
        for (part, name), difference in check.worst.items()
    ]
    print_text("")
    for line in format_table([("part", "output", "max |error|", "of max |value|"), *rows]):
        print_text(line)
    print_text("")
    for line in format_table([("output", "engine against bundle", ""), *map(format_difference, differences)]):
        print_text(line)
    ok = all(difference.fits for difference in differences)
    seconds = time.perf_counter() - started
    print_text(f"checked in {seconds:.1f} s: {'as the engine' if ok else f'differs from the engine; {path} is there'}")
    return ok


def _replay_matches(path: Path, short: Mapping[str, int], calls: dict[str, Mapping[str, Any]]) -> bool:
    """Whether the written bundle reproduces its reference run, which is replayed once. Prints the differences.

    short: the inputs by which that run is shorter than the example. calls: is given the inputs of the first call of
    each part.
    """

    def observe(part: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        calls.setdefault(part, inputs)

    differences = replay(Bundle(path, SessionSettings.on("cpu")), observe)
    run = f" with {', '.join(f'{name} = {value}' for name, value in short.items())}" if short else ""
    for difference in differences:
        far = "" if difference.fits else "; --check shows which part differs from the engine"
        print_text(
            f"{difference.name}: {'as the engine' if difference.fits else 'differs'}{run}, {difference.text}{far}"
        )
    return all(difference.fits for difference in differences)


ITERATIONS = 8
"""More than the most results of earlier steps that a sampler keeps, so that first, middle and last steps occur."""


def shorten_run(exported: Exported) -> dict[str, int]:
    """Values of the inputs that set how often the example's loops run: ``ITERATIONS`` for each.

    Such an input is the only whole number that a loop's sequence depends on, and no larger than its iterations. Empty
    if a step may differ from others by more than its numbers, since a short run might lack such a step: if the workflow
    has choices, such as rules with a memory, if a node leaves out a port at some steps, such as guidance in an
    interval, or if one that the runtime does not know reads the number of the step.
    """
    ops = exported.graph.ops
    loops = find_loops(walk(ops)).values()
    if any(op.has_branches for op in walk(ops)) or any(map(_has_unlike_steps, loops)):
        return {}
    short: dict[str, int] = {}
    for key, iterations in exported.iterations.items():
        over = exported.graph.loops[key].over
        counts = {name: value for name, value in _find_counts(exported, over).items() if value <= iterations}
        if len(counts) == 1:
            short |= dict.fromkeys(counts, ITERATIONS)
    return short


def _has_unlike_steps(loop: Loop) -> bool:
    """Whether some call in a loop's body needs other ports at some steps, or its code reads the number of the step."""
    for call in list_calls(loop.body.values()):
        if not call.spec.runtime and any(isinstance(source, Index) for source in call.sources()):
            return True
        if call.spec.needs is not None:
            arguments = [call.argument(name) for name in call.spec.needs_arguments]
            roots = [source for sources in arguments if sources is not None for source in list_sources(sources)]
            sources = [*roots, *(s for inner in find_dependencies(loop.body, roots).values() for s in inner.sources())]
            if any(isinstance(source, (Item, Index)) for source in sources):
                return True
    return False


def _find_counts(exported: Exported, source: Source) -> dict[str, Any]:
    """The inputs that a value depends on and that are whole numbers above ``ITERATIONS``, with the example's values."""
    sources = [source]
    for op in find_dependencies(exported.graph.ops, [source]).values():
        sources += op.sources()
    names = dict.fromkeys(list_parameters(sources))
    inputs = {name: exported.inputs[name] for name in names if name in exported.inputs}
    return {
        name: exported.values[name]
        for name, declared in inputs.items()
        if declared.type == "int" and not declared.many and not declared.choices and exported.values[name] > ITERATIONS
    }

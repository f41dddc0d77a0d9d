"""``export``: a workflow as a bundle that runs without torch."""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from guidegraph.commands.shared.errors import argument_problem, print_text
from guidegraph.commands.shared.options import PluginSelection
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.source import bind_settings, open_workflow, setting_names, unknown_output_problems
from guidegraph.graph.errors import GuidegraphError, Mark, NodeError, Problem, WorkflowError
from guidegraph.graph.ir import Call, Graph, walk
from guidegraph.graph.memory.cpu_loading import port_kinds as kinds_of
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.folder_locks import lock_output
from guidegraph.graph.trust.policy import Grants, Policy, check_effects
from guidegraph.runs.outputs import is_image
from guidegraph.runs.recipe import portable_params
from guidegraph_runtime.error_text import list_causes
from guidegraph_runtime.machine.byte_sizes import show_size

if TYPE_CHECKING:
    from guidegraph.graph.export.workflow import Exported, ExportedPart
    from guidegraph_runtime.bundle.manifest import Manifest, Reference
    from guidegraph_runtime.running.reference import Difference

NEEDED = ("onnx", "onnxscript")
REFERENCE = "reference"


@dataclass(frozen=True)
class ExportArguments:
    """The arguments of ``export``, not yet checked."""

    workflow: Path
    bundle: Path
    settings: Sequence[str]
    only: list[str] | None
    check: bool
    reference: bool
    precision: Sequence[str]
    plugins: PluginSelection
    grants: Grants


class MissingExportPackage(GuidegraphError):
    """A package that only the export needs is not installed."""


def export_command(arguments: ExportArguments) -> None:
    """Export a workflow as a bundle.

    Raises ``WorkflowError`` if it cannot be exported, and ``typer.Exit`` if the check fails.
    """
    with ExitStack() as stack:
        _export(arguments, stack)


def _export(arguments: ExportArguments, stack: ExitStack) -> None:
    """stack: holds the lock on the bundle's folder until the check is over."""
    check_extra()
    registry = require_plugins(arguments.plugins).registry
    opened = open_workflow(arguments.workflow, registry)
    graph = opened.graph
    problems: list[Problem] = []
    target = find_single_node(graph, arguments.only, problems)
    precision = parse_precision(arguments, problems)
    values = bind_settings(opened, arguments.settings, problems)
    policy = opened.policy(arguments.grants, setting_names(arguments.settings), arguments.bundle)
    check_effects(graph.ops, values, policy)
    with translate_export_errors(graph):
        from guidegraph.graph.export.bundle import check_bundle_path, write_bundle
        from guidegraph.graph.export.one_node import export_call
        from guidegraph.graph.export.workflow import export_workflow

        try:
            check_bundle_path(arguments.bundle)
        except GuidegraphError as error:
            raise WorkflowError([argument_problem("not-a-bundle", _describe(error), "--output")]) from error
        stack.enter_context(lock_output(arguments.bundle, "guidegraph export"))
        if target:
            exported = export_call(graph, values, target, precision=precision, on_part=print_part, policy=policy)
        else:
            exported = export_workflow(
                graph, values, only=arguments.only, precision=precision, on_part=print_part, policy=policy
            )
        engine = run_engine(exported, policy) if arguments.check or arguments.reference else {}
        kinds = {name: bundle_kind(graph, name) for name in exported.outputs}
        reference, files = _reference(exported, engine) if arguments.reference else (None, {})
        manifest = write_bundle(
            exported,
            arguments.bundle,
            kinds=kinds,
            versions=collect_bundle_versions(graph, registry),
            reference=reference,
            more=files,
        )
    for line in summary(exported, manifest):
        print_text(line)
    print_text(f"wrote {arguments.bundle} ({show_size(sum(file.size for file in manifest.files.values()))})")
    if arguments.check:
        ok = _check(exported, arguments.bundle, engine, kinds)
    else:
        ok = reference is None or _replay_matches(arguments.bundle)
    if not ok:
        raise typer.Exit(1)


def find_single_node(graph: Graph, only: list[str] | None, problems: list[Problem]) -> str:
    """The node or model port named by ``--only``, or "" if it names outputs or nothing. Appends to ``problems``."""
    unknown = unknown_output_problems(graph, only)
    if unknown and only is not None and len(only) == 1:
        from guidegraph.graph.export.one_node import find_calls

        matches = find_calls(graph, only[0])
        if len(matches) == 1:
            return only[0]
        if matches:
            message = (
                f"'{only[0]}' names {len(matches)} nodes: {', '.join(call.key for call in matches)}; give one of these"
            )
            unknown = [argument_problem("ambiguous-name", message, "--only")]
    problems += unknown
    return ""


def parse_precision(arguments: ExportArguments, problems: list[Problem]) -> dict[str, str]:
    """The precision of each part, from ``--precision``. Appends to ``problems``."""
    from guidegraph.graph.export.partition.precision import PROVIDERS, parse_precisions

    try:
        precisions = parse_precisions(arguments.precision)
    except ValueError as error:
        problems.append(argument_problem("unknown-precision", str(error), "--precision"))
        return {}
    if arguments.check and (gpu_only := [precision for precision in precisions.values() if precision in PROVIDERS]):
        message = (
            f"{gpu_only[0]} runs on {' or '.join(PROVIDERS[gpu_only[0]])} only, and --check runs the bundle on the CPU"
        )
        problems.append(argument_problem("no-check", f"{message}; leave --check out", "--check"))
    return precisions


def check_extra() -> None:
    """Raises ``MissingExtra``."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingExportPackage(
            f"missing-extra: an export needs {' and '.join(missing)}, a dependency of guidegraph that is not "
            f"installed; pip install {' '.join(missing)}"
        )


@contextmanager
def translate_export_errors(graph: Graph) -> Iterator[None]:
    """Context manager: turn an ``ExportError`` into a ``WorkflowError`` at the node or the line of its code."""
    from guidegraph.graph.export.errors import ExportError

    logging.disable(logging.ERROR)  # torch's own messages and stack traces
    try:
        yield
    except ExportError as error:
        node = _node_of(error)
        mark = node.mark if node is not None and not error.place else _parse_location(error.place, graph)
        path = node.path if node is not None else ""
        raise WorkflowError([Problem(mark, "not-exportable", _describe(error), path)]) from error
    finally:
        logging.disable(logging.NOTSET)


def _node_of(error: BaseException) -> NodeError | None:
    """The ``NodeError`` behind an error, if there is one."""
    return next((link for link in list_causes(error) if isinstance(link, NodeError)), None)


def _describe(error: Any) -> str:
    return f"{error.reason}; {error.remedy}"


def _parse_location(location: str, graph: Graph) -> Mark:
    """A mark for FILE:LINE or FILE:LINE:COLUMN; the start of the workflow's file if there is none."""
    fields = location.rsplit(":", 2)
    if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
        return Mark(fields[0], int(fields[1]), int(fields[2]))
    file, _, line = location.rpartition(":")
    return Mark(file, int(line), 1) if file and line.isdigit() else Mark(str(graph.file), 1, 1)


def print_part(part: ExportedPart, seconds: float) -> None:
    free_axes = {axis.name: axis.multiple_of for axes in part.axes for axis in axes.values()}
    axes = ", ".join(name if step == 1 else f"{name} (multiples of {step})" for name, step in free_axes.items())
    gradient = ", a gradient inside" if part.traced.gradient else ""
    size = show_size(part.traced.weight_bytes)
    kind = "" if part.precision == "fp32" else f" in {part.precision}"
    line = f"part {part.plan.name}: free axes {axes or 'none'}; {size} of weights{kind}{gradient}"
    print_text(f"{line}; {seconds:.1f} s")


def run_engine(exported: Exported, policy: Policy) -> dict[str, Any]:
    """The outputs of the example, computed by the engine."""
    from guidegraph.graph.execution.run import RunOptions, run
    from guidegraph.graph.export.check import run_example

    if exported.examples:
        return run_example(exported)

    return run(exported.graph, exported.values, RunOptions(only=[*exported.outputs], policy=policy)).outputs


def bundle_kind(graph: Graph, name: str) -> str:
    """The kind of an output in a bundle: "image", "tensor" or "table" (written as JSON)."""
    if name not in graph.outputs:  # an output of a single node
        return "tensor"
    type_ = graph.outputs[name].type
    return "image" if is_image(type_) else "table" if kinds_of(type_) <= {"plain"} else "tensor"


def _reference(exported: Exported, engine: Mapping[str, Any]) -> tuple[Reference, dict[str, bytes]]:
    from guidegraph.graph.export.check import choose_tolerance, to_array
    from guidegraph_runtime.bundle.manifest import Reference

    files = {f"{REFERENCE}/input-{name}.npy": _npy(to_array(example)) for name, example in exported.examples.items()}
    inputs = {name: example.default for name, example in exported.inputs.items()}
    inputs |= {name: f"{REFERENCE}/input-{name}.npy" for name in exported.examples}
    for name in exported.outputs:
        files[f"{REFERENCE}/{name}.npy"] = _npy(to_array(engine[name]))
    outputs = {name: f"{REFERENCE}/{name}.npy" for name in exported.outputs}
    return Reference(inputs, outputs, choose_tolerance(exported)), files


def _npy(array: Any) -> bytes:
    import numpy as np

    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def collect_bundle_versions(graph: Graph, registry: Registry) -> dict[str, str]:
    """The versions that made a bundle: guidegraph, torch, the export packages, and the plugins whose nodes it uses."""
    used = {call.spec.distribution for call in walk(graph.ops) if isinstance(call, Call) and call.spec.distribution}
    versions = dict(owner.split("==", 1) for owner in sorted(used))
    versions["guidegraph"] = registry.versions["guidegraph"]
    for name in ("guidegraph-runtime", "torch", "onnx", "onnxscript", "onnxruntime"):
        if version := registry.versions.get(name) or _version(name):
            versions[name] = version
    return versions


def _version(name: str) -> str:
    if name == "onnxruntime":  # several distributions provide this module
        import onnxruntime

        return str(onnxruntime.__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def summary(exported: Exported, manifest: Manifest) -> Iterator[str]:
    """Lines that list the bundle's inputs, and the fixed parameters with their reasons."""
    for name, input_ in manifest.inputs.items():
        kind = f"{input_.type} or list" if input_.many else input_.type
        yield f"input {name}: {kind}, " + (
            "required" if input_.required else f"default {json.dumps(input_.default, ensure_ascii=False)}"
        )
    values = portable_params(exported.values)
    for name, reason in manifest.fixed.items():
        yield f"fixed {name} = {json.dumps(values.get(name), ensure_ascii=False)}: {reason}"


def _check(exported: Exported, path: Path, engine: Mapping[str, Any], kinds: Mapping[str, str]) -> bool:
    """Run the bundle on the example and print its differences from torch. True if all are within tolerance."""
    from guidegraph.graph.export.check import PartCheck, choose_tolerance, compare_outputs, to_array
    from guidegraph_runtime.running.bundle import Bundle
    from guidegraph_runtime.sessions.sessions import SessionSettings

    bundle = Bundle(path, SessionSettings.on("cpu"))
    inputs = {
        name: bundle.load_value(name, difference.default)
        for name, difference in exported.inputs.items()
        if not difference.required
    }
    inputs |= {name: to_array(example) for name, example in exported.examples.items()}
    check = PartCheck(exported)
    started = time.perf_counter()
    differences = compare_outputs(bundle.run_with(inputs, observer=check), engine, kinds, choose_tolerance(exported))
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


def _replay_matches(path: Path) -> bool:
    """Whether the written bundle reproduces its reference run, which is replayed once. Prints the differences."""
    from guidegraph_runtime.running.bundle import Bundle
    from guidegraph_runtime.running.reference import replay
    from guidegraph_runtime.sessions.sessions import SessionSettings

    differences = replay(Bundle(path, SessionSettings.on("cpu")))
    for difference in differences:
        far = "" if difference.fits else "; --check shows which part differs from the engine"
        print_text(f"{difference.name}: {'as the engine' if difference.fits else 'differs'}, {difference.text}{far}")
    return all(difference.fits for difference in differences)


def format_difference(difference: Difference) -> tuple[str, str, str]:
    return difference.name, difference.text, "" if difference.fits else "too far"


def format_table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip()

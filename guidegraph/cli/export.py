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

from guidegraph.cli.errors import argument_problem, print_text
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.source import bound, given_names, open_workflow, unknown_outputs
from guidegraph.graph.errors import GuidegraphError, Mark, NodeError, Problem, WorkflowError
from guidegraph.graph.hosted import kinds as kinds_of
from guidegraph.graph.ir import Call, Graph, walk
from guidegraph.graph.registry import Registry
from guidegraph.graph.sizes import show_size
from guidegraph.graph.trust.folders import hold_output
from guidegraph.graph.trust.policy import Grants, Policy, check_effects
from guidegraph.outputs import is_image
from guidegraph.rerun import portable_params
from guidegraph_runtime.error_text import causes

if TYPE_CHECKING:
    from guidegraph.graph.export.workflow import Exported, ExportedPart
    from guidegraph_runtime.manifest import Manifest, Reference
    from guidegraph_runtime.reference import Difference

NEEDED = ("onnx", "onnxscript")
REFERENCE = "reference"


@dataclass(frozen=True)
class Arguments:
    """The arguments of ``export``, as they were given."""

    workflow: Path
    bundle: Path
    settings: Sequence[str]
    only: list[str] | None
    check: bool
    reference: bool
    precision: Sequence[str]
    plugins: Chosen
    grants: Grants


class MissingExtra(GuidegraphError):
    """A package that only the export needs is not installed."""


def export_command(given: Arguments) -> None:
    """Raises ``WorkflowError`` for a workflow that cannot be exported, and ``typer.Exit`` where the check fails."""
    with ExitStack() as held:
        _export(given, held)


def _export(given: Arguments, held: ExitStack) -> None:
    """held: keeps the place of the bundle until the check is over."""
    check_extra()
    registry = required_plugins(given.plugins).registry
    opened = open_workflow(given.workflow, registry)
    graph = opened.graph
    problems: list[Problem] = []
    alone = chosen_call(graph, given.only, problems)
    precision = chosen_precision(given, problems)
    values = bound(opened, given.settings, problems)
    policy = opened.policy(given.grants, given_names(given.settings), given.bundle)
    check_effects(graph.ops, values, policy)
    with reported(graph):
        from guidegraph.graph.export.bundle import check_place, write_bundle
        from guidegraph.graph.export.one_call import export_call
        from guidegraph.graph.export.workflow import export_workflow

        try:
            check_place(given.bundle)
        except GuidegraphError as error:
            raise WorkflowError([argument_problem("not-a-bundle", _sentence(error), "--output")]) from error
        held.enter_context(hold_output(given.bundle, "guidegraph export"))
        if alone:
            exported = export_call(graph, values, alone, precision=precision, on_part=say_part, policy=policy)
        else:
            exported = export_workflow(
                graph, values, only=given.only, precision=precision, on_part=say_part, policy=policy
            )
        engine = engine_outputs(exported, policy) if given.check or given.reference else {}
        kinds = {name: output_kind(graph, name) for name in exported.outputs}
        reference, files = _reference(exported, engine) if given.reference else (None, {})
        manifest = write_bundle(
            exported,
            given.bundle,
            kinds=kinds,
            versions=made_by(graph, registry),
            reference=reference,
            more=files,
        )
    for line in summary(exported, manifest):
        print_text(line)
    print_text(f"wrote {given.bundle} ({show_size(sum(one.size for one in manifest.files.values()))})")
    if given.check:
        good = _check(exported, given.bundle, engine, kinds)
    else:
        good = reference is None or _replayed(given.bundle)
    if not good:
        raise typer.Exit(1)


def chosen_call(graph: Graph, only: list[str] | None, problems: list[Problem]) -> str:
    """The node or model port that --only names, alone; "" where it names outputs, or nothing that there is."""
    unknown = unknown_outputs(graph, only)
    if unknown and only is not None and len(only) == 1:
        from guidegraph.graph.export.one_call import calls_named

        found = calls_named(graph, only[0])
        if len(found) == 1:
            return only[0]
        if found:
            message = (
                f"'{only[0]}' names {len(found)} nodes: {', '.join(call.key for call in found)}; give one of these"
            )
            unknown = [argument_problem("ambiguous-name", message, "--only")]
    problems += unknown
    return ""


def chosen_precision(given: Arguments, problems: list[Problem]) -> dict[str, str]:
    """What --precision says of the parts; what is wrong with it goes to the problems."""
    from guidegraph.graph.export.precision import PROVIDERS, chosen_precisions

    try:
        found = chosen_precisions(given.precision)
    except ValueError as error:
        problems.append(argument_problem("unknown-precision", str(error), "--precision"))
        return {}
    if given.check and (asked := [one for one in found.values() if one in PROVIDERS]):
        message = f"{asked[0]} runs on {' or '.join(PROVIDERS[asked[0]])} only, and --check runs the bundle on the CPU"
        problems.append(argument_problem("no-check", f"{message}; leave --check out", "--check"))
    return found


def check_extra() -> None:
    """Raises ``MissingExtra``."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingExtra(
            f"missing-extra: an export needs {' and '.join(missing)}, a dependency of guidegraph that is not "
            f"installed; pip install {' '.join(missing)}"
        )


@contextmanager
def reported(graph: Graph) -> Iterator[None]:
    """What cannot be exported is wrong with the workflow: one line, with the place of its node or in a node's code."""
    from guidegraph.graph.export.errors import ExportError

    logging.disable(logging.ERROR)  # torch's own lines, and its stack traces, beside ours
    try:
        yield
    except ExportError as error:
        node = _node_of(error)
        mark = node.mark if node is not None and not error.place else _mark(error.place, graph)
        path = node.path if node is not None else ""
        raise WorkflowError([Problem(mark, "not-exportable", _sentence(error), path)]) from error
    finally:
        logging.disable(logging.NOTSET)


def _node_of(error: BaseException) -> NodeError | None:
    """The node whose function could not be traced, where one is known."""
    return next((link for link in causes(error) if isinstance(link, NodeError)), None)


def _sentence(error: Any) -> str:
    return f"{error.reason}; {error.remedy}"


def _mark(place: str, graph: Graph) -> Mark:
    """A place, FILE:LINE or FILE:LINE:COLUMN, as a mark; the workflow where there is none."""
    parts = place.rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return Mark(parts[0], int(parts[1]), int(parts[2]))
    file, _, line = place.rpartition(":")
    return Mark(file, int(line), 1) if file and line.isdigit() else Mark(str(graph.file), 1, 1)


def say_part(part: ExportedPart, seconds: float) -> None:
    free = {axis.name: axis.multiple_of for here in part.axes for axis in here.values()}
    axes = ", ".join(name if step == 1 else f"{name} (multiples of {step})" for name, step in free.items())
    gradient = ", a gradient inside" if part.traced.gradient else ""
    size = show_size(part.traced.weight_bytes)
    kind = "" if part.precision == "fp32" else f" in {part.precision}"
    what = f"part {part.plan.name}: free axes {axes or 'none'}; {size} of weights{kind}{gradient}"
    print_text(f"{what}; {seconds:.1f} s")


def engine_outputs(exported: Exported, policy: Policy) -> dict[str, Any]:
    """The outputs of the example, as the engine computes them."""
    from guidegraph.graph.export.check import called
    from guidegraph.graph.run import RunOptions, run

    if exported.examples:
        return called(exported)

    return run(exported.graph, exported.values, RunOptions(only=[*exported.outputs], policy=policy)).outputs


def output_kind(graph: Graph, name: str) -> str:
    """What a bundle calls an output: a picture, a tensor, or what is written as JSON."""
    if name not in graph.outputs:  # of a single node
        return "tensor"
    kind = graph.outputs[name].type
    return "image" if is_image(kind) else "table" if kinds_of(kind) <= {"plain"} else "tensor"


def _reference(exported: Exported, engine: Mapping[str, Any]) -> tuple[Reference, dict[str, bytes]]:
    from guidegraph.graph.export.check import array_of, tolerance_of
    from guidegraph_runtime.manifest import Reference

    files = {f"{REFERENCE}/input-{name}.npy": _npy(array_of(one)) for name, one in exported.examples.items()}
    inputs = {name: one.default for name, one in exported.inputs.items()}
    inputs |= {name: f"{REFERENCE}/input-{name}.npy" for name in exported.examples}
    for name in exported.outputs:
        files[f"{REFERENCE}/{name}.npy"] = _npy(array_of(engine[name]))
    outputs = {name: f"{REFERENCE}/{name}.npy" for name in exported.outputs}
    return Reference(inputs, outputs, tolerance_of(exported)), files


def _npy(array: Any) -> bytes:
    import numpy as np

    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def made_by(graph: Graph, registry: Registry) -> dict[str, str]:
    """The versions of what made a bundle: ours, torch, the exporter's packages, and plugins whose nodes are in it."""
    used = {call.spec.distribution for call in walk(graph.ops) if isinstance(call, Call) and call.spec.distribution}
    found = dict(owner.split("==", 1) for owner in sorted(used))
    found["guidegraph"] = registry.versions["guidegraph"]
    for name in ("guidegraph-runtime", "torch", "onnx", "onnxscript", "onnxruntime"):
        if version := registry.versions.get(name) or _version(name):
            found[name] = version
    return found


def _version(name: str) -> str:
    if name == "onnxruntime":  # one module of several distributions
        import onnxruntime

        return str(onnxruntime.__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def summary(exported: Exported, manifest: Manifest) -> Iterator[str]:
    """The inputs that are left, and why the other parameters are fixed."""
    for name, one in manifest.inputs.items():
        kind = f"{one.type} or list" if one.many else one.type
        yield f"input {name}: {kind}, " + (
            "required" if one.required else f"default {json.dumps(one.default, ensure_ascii=False)}"
        )
    values = portable_params(exported.values)
    for name, reason in manifest.fixed.items():
        yield f"fixed {name} = {json.dumps(values.get(name), ensure_ascii=False)}: {reason}"


def _check(exported: Exported, path: Path, engine: Mapping[str, Any], kinds: Mapping[str, str]) -> bool:
    """Run the bundle on the example beside torch, and print how far they are apart. Whether all outputs are near."""
    from guidegraph.graph.export.check import PartCheck, array_of, compared, tolerance_of
    from guidegraph_runtime.bundle import Bundle
    from guidegraph_runtime.sessions import SessionSettings

    bundle = Bundle(path, SessionSettings.on("cpu"))
    given = {name: bundle.carried(name, one.default) for name, one in exported.inputs.items() if not one.required}
    given |= {name: array_of(example) for name, example in exported.examples.items()}
    check = PartCheck(exported)
    started = time.perf_counter()
    found = compared(bundle.run_with(given, observer=check), engine, kinds, tolerance_of(exported))
    rows = [(part, name, f"{one.absolute:.1e}", f"{one.relative:.1e}") for (part, name), one in check.worst.items()]
    print_text("")
    for line in table([("part", "output", "max |error|", "of max |value|"), *rows]):
        print_text(line)
    print_text("")
    for line in table([("output", "engine against bundle", ""), *map(difference_row, found)]):
        print_text(line)
    good = all(one.fits for one in found)
    seconds = time.perf_counter() - started
    print_text(
        f"checked in {seconds:.1f} s: {'as the engine' if good else f'differs from the engine; {path} is there'}"
    )
    return good


def _replayed(path: Path) -> bool:
    """Whether the bundle that was written gives what the engine gave: the run that it carries, once."""
    from guidegraph_runtime.bundle import Bundle
    from guidegraph_runtime.reference import replay
    from guidegraph_runtime.sessions import SessionSettings

    found = replay(Bundle(path, SessionSettings.on("cpu")))
    for one in found:
        far = "" if one.fits else "; --check shows which part differs from the engine"
        print_text(f"{one.name}: {'as the engine' if one.fits else 'differs'}, {one.shown}{far}")
    return all(one.fits for one in found)


def difference_row(one: Difference) -> tuple[str, str, str]:
    return one.name, one.shown, "" if one.fits else "too far"


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip()

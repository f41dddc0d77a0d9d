"""``export --single-file``: a workflow as one ONNX graph that any onnxruntime runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from guidegraph.cli.errors import argument_problem, print_text
from guidegraph.cli.export import (
    Arguments,
    check_extra,
    chosen_precision,
    difference_row,
    engine_outputs,
    made_by,
    output_kind,
    reported,
    say_part,
    table,
)
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.source import bound, given_names, open_workflow, unknown_outputs
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.sizes import show_size
from guidegraph.graph.trust.folders import hold_output
from guidegraph.graph.trust.policy import Policy, check_effects
from guidegraph.rerun import portable_params

if TYPE_CHECKING:
    from guidegraph.graph.export.single_file import Written
    from guidegraph.graph.export.workflow import Exported


def single_command(given: Arguments) -> None:
    """Raises ``WorkflowError`` for what one graph cannot hold, and ``typer.Exit`` where the check fails."""
    with ExitStack() as held:
        _export(given, held)


def _export(given: Arguments, held: ExitStack) -> None:
    """held: keeps the place of the file until the check is over."""
    check_extra()
    if given.bundle.suffix != ".onnx" or given.bundle.is_dir():
        message = f"'{given.bundle}' is no name of an ONNX file; give one that ends with .onnx"
        raise WorkflowError([argument_problem("bad-value", message, "--output")])
    registry = required_plugins(given.plugins).registry
    opened = open_workflow(given.workflow, registry)
    graph = opened.graph
    problems = unknown_outputs(graph, given.only)
    precision = chosen_precision(given, problems)
    values = bound(opened, given.settings, problems)
    policy = opened.policy(given.grants, given_names(given.settings), given.bundle)
    check_effects(graph.ops, values, policy)
    with reported(graph):
        from guidegraph.graph.export.errors import ExportError
        from guidegraph.graph.export.single_file import check_single_place, write_single
        from guidegraph.graph.export.workflow import export_workflow

        try:
            check_single_place(given.bundle)
        except ExportError as error:
            message = f"{error.reason}; {error.remedy}"
            raise WorkflowError([argument_problem("bad-value", message, "--output")]) from error
        held.enter_context(hold_output(given.bundle, "guidegraph export"))
        exported = export_workflow(
            graph, values, only=given.only, precision=precision, on_part=say_part, one_graph=True, policy=policy
        )
        kinds = {name: output_kind(graph, name) for name in exported.outputs}
        written = write_single(exported, given.bundle, kinds=kinds, versions=made_by(graph, registry))
    for line in _summary(exported, written):
        print_text(line)
    sizes = ", ".join(f"{path} ({show_size(size)})" for path, size in written.files.items())
    print_text(f"wrote {sizes}")
    if given.check and not _check(exported, given.bundle, kinds, policy):
        raise typer.Exit(1)


def _summary(exported: Exported, written: Written) -> Iterator[str]:
    """The graph's inputs and outputs, and why parameters are fixed."""
    for one in written.single.inputs:
        yield f"input {one.name}: {one.dtype} ({', '.join(map(str, one.dims))})"
    for name in written.single.outputs:
        yield f"output {name}"
    values = portable_params(exported.values)
    for name, reason in exported.fixed.items():
        yield f"fixed {name} = {json.dumps(values.get(name), ensure_ascii=False)}: {reason}"


def _check(exported: Exported, path: Path, kinds: Mapping[str, str], policy: Policy) -> bool:
    """One call of the graph on the example beside torch, and how far they are apart. Whether all outputs are near."""
    import onnxruntime

    from guidegraph.graph.export.check import compared
    from guidegraph_runtime.single import inputs_with, read_description

    engine = engine_outputs(exported, policy)
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = inputs_with(read_description(path.with_suffix(".json")), {})
    names = [one.name for one in session.get_outputs()]
    outputs: dict[str, Any] = dict(zip(names, session.run(None, inputs), strict=True))
    seconds = time.perf_counter() - started
    found = compared({name: outputs.get(f"{name}.result", outputs.get(name)) for name in kinds}, engine, kinds)
    print_text("")
    for line in table([("output", "engine against graph", ""), *map(difference_row, found)]):
        print_text(line)
    good = all(one.fits for one in found)
    print_text(
        f"ran in {seconds:.1f} s, loading included: {'as the engine' if good else f'differs from it; {path} is there'}"
    )
    return good

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


def single_command(arguments: Arguments) -> None:
    """Export a workflow as one ONNX graph.

    Raises ``WorkflowError`` if one graph cannot hold it, and ``typer.Exit`` if the check fails.
    """
    with ExitStack() as stack:
        _export(arguments, stack)


def _export(arguments: Arguments, stack: ExitStack) -> None:
    """stack: holds the lock on the file until the check is over."""
    check_extra()
    if arguments.bundle.suffix != ".onnx" or arguments.bundle.is_dir():
        message = f"'{arguments.bundle}' is no name of an ONNX file; give one that ends with .onnx"
        raise WorkflowError([argument_problem("bad-value", message, "--output")])
    registry = required_plugins(arguments.plugins).registry
    opened = open_workflow(arguments.workflow, registry)
    graph = opened.graph
    problems = unknown_outputs(graph, arguments.only)
    precision = chosen_precision(arguments, problems)
    values = bound(opened, arguments.settings, problems)
    policy = opened.policy(arguments.grants, given_names(arguments.settings), arguments.bundle)
    check_effects(graph.ops, values, policy)
    with reported(graph):
        from guidegraph.graph.export.errors import ExportError
        from guidegraph.graph.export.single_file import check_single_place, write_single
        from guidegraph.graph.export.workflow import export_workflow

        try:
            check_single_place(arguments.bundle)
        except ExportError as error:
            message = f"{error.reason}; {error.remedy}"
            raise WorkflowError([argument_problem("bad-value", message, "--output")]) from error
        stack.enter_context(hold_output(arguments.bundle, "guidegraph export"))
        exported = export_workflow(
            graph, values, only=arguments.only, precision=precision, on_part=say_part, one_graph=True, policy=policy
        )
        kinds = {name: output_kind(graph, name) for name in exported.outputs}
        written = write_single(exported, arguments.bundle, kinds=kinds, versions=made_by(graph, registry))
    for line in _summary(exported, written):
        print_text(line)
    sizes = ", ".join(f"{path} ({show_size(size)})" for path, size in written.files.items())
    print_text(f"wrote {sizes}")
    if arguments.check and not _check(exported, arguments.bundle, kinds, policy):
        raise typer.Exit(1)


def _summary(exported: Exported, written: Written) -> Iterator[str]:
    """Lines that list the graph's inputs and outputs, and the fixed parameters with their reasons."""
    for input_ in written.single.inputs:
        yield f"input {input_.name}: {input_.dtype} ({', '.join(map(str, input_.dims))})"
    for name in written.single.outputs:
        yield f"output {name}"
    values = portable_params(exported.values)
    for name, reason in exported.fixed.items():
        yield f"fixed {name} = {json.dumps(values.get(name), ensure_ascii=False)}: {reason}"


def _check(exported: Exported, path: Path, kinds: Mapping[str, str], policy: Policy) -> bool:
    """Call the graph once on the example and print its differences from torch. True if all are within tolerance."""
    import onnxruntime

    from guidegraph.graph.export.check import compared
    from guidegraph_runtime.single import inputs_with, read_description

    engine = engine_outputs(exported, policy)
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = inputs_with(read_description(path.with_suffix(".json")), {})
    names = [output.name for output in session.get_outputs()]
    outputs: dict[str, Any] = dict(zip(names, session.run(None, inputs), strict=True))
    seconds = time.perf_counter() - started
    differences = compared({name: outputs.get(f"{name}.result", outputs.get(name)) for name in kinds}, engine, kinds)
    print_text("")
    for line in table([("output", "engine against graph", ""), *map(difference_row, differences)]):
        print_text(line)
    ok = all(output.fits for output in differences)
    print_text(
        f"ran in {seconds:.1f} s, loading included: {'as the engine' if ok else f'differs from it; {path} is there'}"
    )
    return ok

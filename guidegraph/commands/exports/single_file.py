"""``export --single-file``: a workflow as one ONNX graph that any onnxruntime runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from guidegraph.commands.exports.steps import (
    ExportArguments,
    bundle_kind,
    check_extra,
    check_generators,
    collect_bundle_versions,
    format_difference,
    format_table,
    parse_precision,
    prepare_export,
    print_part,
    run_engine,
    translate_export_errors,
)
from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.trust.file_checks import lock_output
from guidegraph.graph.trust.policy import Policy
from guidegraph.runs.recipe import portable_params
from guidegraph_runtime.machine.memory import show_size
from guidegraph_runtime.running.single_file import inputs_with, read_description

if TYPE_CHECKING:
    from guidegraph.graph.export.single_file.write import SingleFile
    from guidegraph.graph.export.workflow import Exported


def export_single_file(arguments: ExportArguments) -> None:
    """Export a workflow as one ONNX graph.

    Raises ``WorkflowError`` if one graph cannot hold it, and ``typer.Exit`` if the check fails.
    """
    with ExitStack() as stack:  # holds the lock on the file until the check is over
        check_extra()
        if arguments.bundle.suffix != ".onnx" or arguments.bundle.is_dir():
            message = f"'{arguments.bundle}' is not the name of an ONNX file; give one that ends with .onnx"
            raise WorkflowError([argument_problem("bad-value", message, "--output")])
        opened = arguments.request.open()
        graph = opened.graph
        problems: list[Problem] = []
        precision = parse_precision(arguments, problems)
        prepared = prepare_export(arguments, opened, problems, "")
        values, policy = prepared.values, prepared.session.config.policy
        with translate_export_errors(graph):
            from guidegraph.graph.export.single_file.write import check_single, check_single_path, write_single
            from guidegraph.graph.export.workflow import export_workflow

            try:
                check_single_path(arguments.bundle)
            except ExportError as error:
                message = f"{error.reason}; {error.remedy}"
                raise WorkflowError([argument_problem("bad-value", message, "--output")]) from error
            stack.enter_context(lock_output(arguments.bundle, "guidegraph export"))

            def check(planned: Exported) -> None:
                check_generators(graph, planned)
                check_single(planned, kinds={name: bundle_kind(graph, name) for name in planned.outputs})

            exported = export_workflow(
                graph,
                values,
                only=arguments.only,
                precision=precision,
                on_part=print_part,
                on_plan=check,
                one_graph=True,
                policy=policy,
            )
            kinds = {name: bundle_kind(graph, name) for name in exported.outputs}
            written = write_single(
                exported, arguments.bundle, kinds=kinds, versions=collect_bundle_versions(graph, opened.registry)
            )
        for line in _summary(exported, written):
            print_text(line)
        sizes = ", ".join(f"{path} ({show_size(size)})" for path, size in written.files.items())
        print_text(f"wrote {sizes}")
        if arguments.check and not _check(exported, arguments.bundle, kinds, policy):
            raise typer.Exit(1)


def _summary(exported: Exported, written: SingleFile) -> Iterator[str]:
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

    from guidegraph.graph.export.compare_outputs import compare_outputs

    engine = run_engine(exported, policy)
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = inputs_with(read_description(path.with_suffix(".json")), {})
    names = [output.name for output in session.get_outputs()]
    outputs: dict[str, Any] = dict(zip(names, session.run(None, inputs), strict=True))
    seconds = time.perf_counter() - started
    differences = compare_outputs(
        {name: outputs.get(f"{name}.result", outputs.get(name)) for name in kinds}, engine, kinds
    )
    print_text("")
    for line in format_table([("output", "engine against graph", ""), *map(format_difference, differences)]):
        print_text(line)
    ok = all(output.fits for output in differences)
    print_text(
        f"ran in {seconds:.1f} s, loading included: {'as the engine' if ok else f'differs from it; {path} is there'}"
    )
    return ok

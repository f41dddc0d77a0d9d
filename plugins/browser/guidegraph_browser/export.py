"""``export --page``: a page that draws in a browser, from a bundle and onnxruntime-web."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.commands.exports.bundle import export_bundle
from guidegraph.commands.exports.steps import ExportArguments
from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.export.partition.precision import PROVIDERS
from guidegraph.graph.trust.file_checks import lock_output
from guidegraph_browser.support import (
    INSTALL,
    PageError,
    find_onnxruntime_web,
    find_part_problems,
    find_provider_problems,
)
from guidegraph_browser.table_rows import PlanSource
from guidegraph_browser.write_page import BUNDLE, check_page_folder, choose_outputs, find_page_problems, write_page
from guidegraph_runtime.bundle.manifest import Output, Part, Tensor
from guidegraph_runtime.machine.memory import show_size

if TYPE_CHECKING:
    from guidegraph.graph.export.trace_parts import ExportedPart
    from guidegraph.graph.export.workflow import Exported


def check_options(page: bool, onnxruntime_web: Path | None, single_file: bool) -> Path:
    """The folder of onnxruntime-web. Raises ``WorkflowError`` for options that do not go together."""
    option, problem = "--onnxruntime-web", "only a page needs it; add --page, or leave it out"
    if page and single_file:
        option, problem = "--single-file", "a page has a bundle, not a single file; leave one out"
    elif onnxruntime_web is None:
        problem = (
            f"a page computes with onnxruntime-web, which guidegraph does not contain; {INSTALL}, then name it here"
        )
    elif page:
        return onnxruntime_web
    raise WorkflowError([argument_problem("bad-value", problem, option)])


def export_page(arguments: ExportArguments, onnxruntime_web: Path) -> None:
    """Export a workflow as a bundle, and write its page around it.

    Raises ``WorkflowError`` if it cannot be exported or cannot be a page, and ``typer.Exit`` if the check fails.
    """
    folder = arguments.bundle
    try:
        web = find_onnxruntime_web(onnxruntime_web)
    except ValueError as error:
        raise WorkflowError([argument_problem("bad-value", str(error), "--onnxruntime-web")]) from error
    with name_page_problems("--output"):
        check_page_folder(folder)
    with lock_output(folder, "guidegraph export"):
        export_bundle(replace(arguments, bundle=folder / BUNDLE), _check_plan)
        with name_page_problems("--page"):
            page = write_page(folder, web)
    for name, (low, high) in page.ranges.items():
        print_text(f"tables of {name}: {low} to {high}")
    print_text(f"onnxruntime-web {web.version}, licence {web.license}; page.json has the sha256 of each file")
    print_text(f"wrote {folder} (a browser loads {show_size(sum(page.sizes.values()))})")
    print_text(f"open http://localhost:8000 after: python -m http.server 8000 --directory {shlex.quote(str(folder))}")


@contextmanager
def name_page_problems(option: str) -> Iterator[None]:
    """Context manager: turn a ``PageError`` into a ``WorkflowError`` at an option."""
    try:
        yield
    except PageError as error:
        raise WorkflowError([argument_problem("no-page", problem, option) for problem in error.problems]) from error


def _check_plan(planned: Exported, kinds: Mapping[str, str], precision: Mapping[str, str]) -> None:
    """Raise ``WorkflowError`` with all reasons why an export cannot be a page. Before the trace it has no parts."""

    def describe_tensor(value: Any) -> Tensor:
        return Tensor(str(value.name), str(value.dtype.numpy()), ())

    def describe(part: ExportedPart) -> Part:
        graph = part.traced.model.graph
        inputs, outputs = (tuple(map(describe_tensor, values)) for values in (graph.inputs, graph.outputs))
        return Part("", inputs, outputs, {})

    tables = {name: tensor.detach().cpu().numpy() for name, tensor in planned.host.tables.items()}
    source = PlanSource("the plan", planned.inputs, tables, lambda name: planned.host.files[name])
    outputs_by_name = {name: Output(kinds[name], value) for name, value in planned.outputs.items()}
    outputs = choose_outputs(source, planned.plan, outputs_by_name)
    providers = next((PROVIDERS[kind] for kind in precision.values() if kind in PROVIDERS), ())
    problems = [
        *find_provider_problems(providers),
        *find_page_problems(source, planned.plan, outputs),
        *find_part_problems({part.plan.name: describe(part) for part in planned.parts}),
    ]
    if problems:
        with name_page_problems("--page"):
            raise PageError(*problems)

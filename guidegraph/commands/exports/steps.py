"""The steps that the exports to a bundle and to a single file share."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.open_workflow import OpenedWorkflow, WorkflowRequest, parse_settings
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import GuidegraphError, Mark, NodeError, Problem, WorkflowError
from guidegraph.graph.execution.run import run
from guidegraph.graph.export.errors import ExportError, NoSuchPart
from guidegraph.graph.export.partition.precision import PROVIDERS, parse_precisions
from guidegraph.graph.ir import Graph, walk_calls
from guidegraph.graph.node import Registry
from guidegraph.graph.output_format import find_formats
from guidegraph.graph.port import port_kinds
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.policy import Policy
from guidegraph.nodes.table import Table
from guidegraph.runs.outputs import is_image
from guidegraph.session import Prepared, list_folder_problems
from guidegraph_runtime.bundle.manifest_types import walk_operations
from guidegraph_runtime.error_text import list_causes
from guidegraph_runtime.machine.memory import show_size

if TYPE_CHECKING:
    from guidegraph.graph.export.trace_parts import ExportedPart
    from guidegraph.graph.export.workflow import Exported
    from guidegraph_runtime.running.measure_costs import Difference

NEEDED = ("onnx", "onnxscript")


@dataclass(frozen=True)
class ExportArguments:
    """The arguments of ``export``, not yet checked."""

    request: WorkflowRequest
    bundle: Path
    only: list[str] | None
    check: bool
    reference: bool
    precision: Sequence[str]


def prepare_export(
    arguments: ExportArguments, opened: OpenedWorkflow, problems: list[Problem], target: str
) -> Prepared:
    """Check the run of the example. Raises ``WorkflowError`` with ``problems`` and all that are found.

    target: the single node to export, if ``--only`` names one; it has no outputs to check.
    """
    bundle = arguments.bundle
    problems += list_folder_problems({"--output": bundle.parent})
    only = [] if target else arguments.only
    session = opened.start_session(RunConfig(only=only, policy=opened.policy(bundle)), problems)
    texts = parse_settings(arguments.request.settings, problems)
    session = replace(session, every_branch=True)
    return session.prepare(texts, text=True, label="--set", problems=problems, only="--only")


class MissingExportPackage(GuidegraphError):
    """A package that only the export needs is not installed."""


def parse_precision(arguments: ExportArguments, problems: list[Problem]) -> dict[str, str]:
    """The precision of each part, from ``--precision``. Appends to ``problems``."""
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
    """Raises ``MissingExportPackage``."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingExportPackage(
            f"missing-extra: an export needs {' and '.join(missing)}, a dependency of guidegraph that is not "
            f"installed; pip install {' '.join(missing)}"
        )


@contextmanager
def translate_export_errors(graph: Graph) -> Iterator[None]:
    """Context manager: turn an ``ExportError`` into a ``WorkflowError`` at the node, its line of code or the option."""
    logging.disable(logging.ERROR)  # torch's own messages and stack traces
    try:
        yield
    except NoSuchPart as error:
        problem = argument_problem("unknown-precision", describe_export_error(error), "--precision")
        raise WorkflowError([problem]) from error
    except ExportError as error:
        problems = []
        for each in (error, *error.more):  # at its node, or at its line of code
            node = next((cause for cause in list_causes(each) if isinstance(cause, NodeError)), None)
            mark = node.mark if node is not None and not each.place else _parse_location(each.place, graph)
            path = node.path if node is not None else ""
            problems.append(Problem(mark, "not-exportable", describe_export_error(each), path))
        raise WorkflowError(problems) from error
    finally:
        logging.disable(logging.NOTSET)


def check_generators(graph: Graph, exported: Exported) -> None:
    """Raise ``WorkflowError`` for noise from torch's own generator, which a run of an export lacks."""
    calls = {call.key: call for call in walk_calls(graph.ops)}
    problems = []
    for operation in walk_operations(exported.plan):
        source = operation.inputs.get("rng", "")
        if "torch" not in (operation.settings.get("rng"), exported.values.get(source.removeprefix("params."))):
            continue
        call = calls.get(operation.node)
        mark = Mark(str(graph.file), 1, 1) if call is None else call.marks.get("rng", call.mark)
        message = (
            "'rng: torch' draws from torch's own generator, and an export runs without torch; use 'philox', the default"
        )
        problems.append(Problem(mark, "not-exportable", message, f"nodes.{operation.node}"))
    if problems:
        raise WorkflowError(problems)


def describe_export_error(error: Any) -> str:
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
    from guidegraph.graph.export.compare_outputs import run_example

    if exported.examples:
        return run_example(exported)
    return run(exported.graph, exported.values, RunConfig(only=[*exported.outputs], policy=policy)).outputs


def bundle_kind(graph: Graph, name: str) -> str:
    """The kind of an output in a bundle: "image", "tensor" or "table" (written as JSON)."""
    if name not in graph.outputs:  # an output of a single node
        return "tensor"
    type_ = graph.outputs[name].type
    if is_image(type_):
        return "image"
    return "table" if Table in type_.alternatives or port_kinds(type_) <= {"plain"} else "tensor"


def name_ports(graph: Graph, registry: Registry, kinds: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """The port type and the number of axes of a sample, for each output of tensors that a plugin's format writes."""
    ports = {}
    for name, kind in kinds.items():
        if kind != "tensor" or name not in graph.outputs:
            continue
        if formats := find_formats(registry.formats, graph.outputs[name].type, None):
            axes = getattr(formats[0].type, "axes", None) or ()
            if axes:
                ports[name] = (formats[0].type.__name__, len(axes) - (axes[0] == "B"))
    return ports


def collect_bundle_versions(graph: Graph, registry: Registry) -> dict[str, str]:
    """The versions that made a bundle: guidegraph, torch, the export packages, and the plugins whose nodes it uses."""
    used = {call.spec.distribution for call in walk_calls(graph.ops) if call.spec.distribution}
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


def format_difference(difference: Difference) -> tuple[str, str, str]:
    return difference.name, difference.text, "" if difference.fits else "too far"


def format_table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip()

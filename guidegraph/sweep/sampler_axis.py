"""A sampler as an axis of a workflow that has no parameter for it: its ``scheduler.X`` becomes ``scheduler.named``."""

from __future__ import annotations

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.edit.document import Document, find_value
from guidegraph.graph.language.edit.nodes import list_nodes
from guidegraph.graph.language.edit.parameters import add_parameter
from guidegraph.graph.language.edit.paths import locate_value
from guidegraph.graph.language.edit.values import set_value
from guidegraph.graph.language.yaml_tree import Scalar, YamlMapping
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.sweep.grid_options import SAMPLER
from guidegraph_runtime.samplers.sampler import SAMPLERS

NAMED = "scheduler.named"
PREFIX = "scheduler."
ADVICE = f"give the workflow a parameter 'sampler' that feeds a {NAMED}"


def add_sampler_parameter(graph: Graph, registry: Registry, *, stranger: bool = False) -> Graph:
    """The graph with a parameter ``sampler`` in place of the only sampler in its file; its own is the default.

    stranger: as for ``build``. Raises ``WorkflowError`` if the file has no sampler or several, or one with settings
    that not every sampler has.
    """
    file = str(graph.file)
    document = Document.parse(graph.sources[file], file)
    samplers: list[tuple[str, str]] = []
    for _, path in list_nodes(document):
        use = find_value(locate_value(document, path).tree, "use")
        text = use.text if isinstance(use, Scalar) else ""
        if text.startswith(PREFIX) and text.removeprefix(PREFIX) in SAMPLERS:
            samplers.append((path, text.removeprefix(PREFIX)))
    if len(samplers) != 1:
        listed = ", ".join(path for path, _ in samplers)
        reason = f"{len(samplers)} nodes of its file make one ({listed})" if listed else "no node of its file makes one"
        raise _refuse(document, f"there is no parameter 'sampler', and {reason}: {ADVICE}", "")
    path, sampler = samplers[0]
    spec = registry.nodes[NAMED]
    written: set[str] = set()
    for part in ("in", "with"):
        tree = find_value(locate_value(document, path).tree, part)
        for name in [name.text for name, _ in tree.items] if isinstance(tree, YamlMapping) else []:
            written.add(name)
            if spec.port(name) is None:
                message = f"'{name}' of {PREFIX}{sampler} is not a setting of every sampler: leave it out, or {ADVICE}"
                raise _refuse(document, message, f"{path}.{part}.{name}")
    own = registry.nodes[f"{PREFIX}{sampler}"].settings
    for name, setting in spec.settings.items():
        if name in written or name not in own or own[name].default == setting.default:
            continue
        if own[name].default is None:
            message = (
                f"'{name}' of {PREFIX}{sampler} is not written, and its default is no value: write it, or {ADVICE}"
            )
            raise _refuse(document, message, path)
        document = set_value(document, f"{path}.with.{name}", own[name].default)
    document = add_parameter(document, SAMPLER, sampler, help=f"as for {NAMED}")
    document = set_value(document, f"{path}.use", NAMED)
    document = set_value(document, f"{path}.in.{SAMPLER}", f"params.{SAMPLER}")
    return build(graph.file, registry, {**graph.sources, file: document.text}, stranger=stranger)


def _refuse(document: Document, message: str, path: str) -> WorkflowError:
    mark = locate_value(document, path).tree.mark if path else document.root.mark
    return WorkflowError([Problem(mark, "unknown-param", message, path)])

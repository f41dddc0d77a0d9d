"""Inlining a workflow that a node uses: its nodes take the place of that node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guidegraph.graph.language.edit.blocks import paste_entry, take_entry
from guidegraph.graph.language.edit.document import Document, find_entry, find_value, refuse
from guidegraph.graph.language.edit.entries import replace_key
from guidegraph.graph.language.edit.links import Block, Link, block_path, defines, links_to_node, list_links, relink
from guidegraph.graph.language.edit.nodes import list_nodes, locate_node, node_block, rename_node
from guidegraph.graph.language.edit.parameters import add_parameter
from guidegraph.graph.language.edit.paths import Location, locate_value
from guidegraph.graph.language.edit.values import remove_step, set_value
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, shorten


@dataclass(frozen=True)
class _Use:
    """A node that uses a workflow. links and literals: by the workflow's parameter."""

    location: Location
    block: Block
    name: str
    links: Mapping[str, str]
    literals: Mapping[str, Tree]


def inline_workflow(document: Document, path: str, used: Document) -> Document:
    """Put the nodes of a used workflow in the place of the node that uses it.

    path: that node. used: the workflow, whose relative paths are relative to the folder of ``document``. Nodes whose
    names are taken are called ``NODE_NAME``. Literals of parameters move to the ports that they feed; one that feeds
    something else becomes a parameter of ``document``. Raises ``WorkflowError``.
    """
    use = _read_use(document, path, used)
    used = _rename_nodes(document, used, use)
    document, used = _connect_parameters(document, used, use)
    document = _connect_outputs(document, used, use)
    document = _merge_requirements(document, used)
    document, placeholder = _free_name(document, used, use)
    after = placeholder
    for name, _ in _items(find_value(used.root, "nodes")):
        entry = take_entry(used, locate_value(used, f"nodes.{name.text}").steps[-1])
        document = paste_entry(document, block_path(use.block), entry, after)
        after = entry.name
    steps = locate_value(document, f"{block_path(use.block)}.{placeholder}").steps
    return document.replace(remove_step(document, steps))


def _free_name(document: Document, used: Document, use: _Use) -> tuple[Document, str]:
    """Give the node a name that no node has, so that one of the used workflow may have its own; returns it too."""
    own = find_value(used.root, "nodes")
    step = locate_value(document, use.location.path).steps[-1]
    assert step.key is not None
    name = f"{use.name}_"
    while find_entry(step.collection, name) or find_entry(own, name):
        name += "_"
    return document.replace(replace_key(document, step.key, step.value, name)), name


def _items(tree: Tree | None) -> list[tuple[Scalar, Tree]]:
    return tree.items if isinstance(tree, YamlMapping) else []


def _read_use(document: Document, path: str, used: Document) -> _Use:
    location = locate_node(document, path)
    block, name = node_block(location)
    links = {port.text: link for port, link in _items(find_value(location.tree, "in"))}
    for port, link in links.items():
        if not isinstance(link, Scalar):
            refuse(link.mark, "not-a-list", f"parameter '{shorten(port)}' takes one link", f"{path}.in.{shorten(port)}")
    literals = {name.text: value for name, value in _defaults(used)}
    literals |= {setting.text: value for setting, value in _items(find_value(location.tree, "with"))}
    texts = {port: link.text for port, link in links.items() if isinstance(link, Scalar)}
    return _Use(location, block, name, texts, literals)


def _defaults(used: Document) -> list[tuple[Scalar, Tree]]:
    """The parameters with a default, each with that."""
    defaults = []
    for name, value in _items(find_value(used.root, "params")):
        default = find_value(value, "default") if isinstance(value, YamlMapping) else value
        if default is not None:
            defaults.append((name, default))
    return defaults


def _rename_nodes(document: Document, used: Document, use: _Use) -> Document:
    """Rename the nodes of the used workflow whose names are taken where they will be."""
    taken = {
        names[-1]
        for names, path in list_nodes(document)
        if path != use.location.path
        and (use.block[: len(names) - 1] == names[:-1] or names[: len(use.block)] == use.block)
    }
    own = {names[-1] for names, _ in list_nodes(used)}
    for names, _ in reversed(list_nodes(used)):  # those inside before their loops, whose paths then still hold
        if names[-1] not in taken:
            continue
        name = f"{use.name}_{names[-1]}"
        while name in taken or name in own:
            name += "_"
        own.add(name)
        used = rename_node(used, f"{block_path(names[:-1])}.{names[-1]}", name)
    return used


def _connect_parameters(document: Document, used: Document, use: _Use) -> tuple[Document, Document]:
    """Put the node's links and literals in the place of the used workflow's parameters."""
    texts: dict[str, str] = {}
    for name in [name.text for name, _ in _items(find_value(used.root, "params"))]:
        links = [link for link in list_links(used) if link.scalar.text == f"params.{name}"]
        if name in use.links:
            for link in links:
                _check_loop_value(use, used, link, use.links[name])
            texts[f"params.{name}"] = use.links[name]
            continue
        if name not in use.literals:
            if links:
                message = f"the workflow's parameter '{shorten(name)}' is not given"
                refuse(use.location.mark, "missing-port", message, use.location.path)
            continue
        for link in filter(_is_port, links):
            node, _, port = link.path.rpartition(".in.")
            used = set_value(used, f"{node}.with.{port}", use.literals[name])
        if not all(map(_is_port, links)):
            document, parameter = _add_parameter(document, used, use, name)
            texts[f"params.{name}"] = f"params.{parameter}"
    # All at once: a link of the node may be to a parameter that has the name of one of the used workflow.
    links = [link for link in list_links(used) if link.scalar.text in texts]
    return document, used.replace([relink(used, link, texts[link.scalar.text]) for link in links])


def _is_port(link: Link) -> bool:
    """Whether a link alone feeds a node's port, which may take a literal in its place."""
    group = link.path.rpartition(".")[0]
    return group.endswith(".in") and ".choose." not in group


def _check_loop_value(use: _Use, used: Document, link: Link, text: str) -> None:
    """Raise ``WorkflowError`` if a link to a loop's value would mean another loop in its new place."""
    head, _, name = text.partition(".")
    if head not in ("carry", "loop"):
        return
    for i in range(len(link.block)):
        if defines(used, link.block[: i + 1], head, name):
            message = f"'{text}' would be read as a value of the loop '{link.block[i]}' in the used workflow"
            refuse(use.location.mark, "bad-move", f"{message}: rename that first", use.location.path)


def _add_parameter(document: Document, used: Document, use: _Use, name: str) -> tuple[Document, str]:
    """Add a parameter for a literal that feeds no port; returns its name too."""
    parameter = name
    params = find_value(document.root, "params")
    while find_entry(params, parameter):
        parameter = f"{use.name}_{parameter}"
    declared = find_value(find_value(used.root, "params"), name)
    kind = find_value(declared, "type")
    type_name = kind.text if isinstance(kind, Scalar) else ""
    return add_parameter(document, parameter, use.literals[name], type=type_name), parameter


def _connect_outputs(document: Document, used: Document, use: _Use) -> Document:
    """Point the links to the node at the used workflow's outputs."""
    outputs = {
        name.text: link.text for name, link in _items(find_value(used.root, "outputs")) if isinstance(link, Scalar)
    }
    replacements = []
    for link in links_to_node(document, use.block, use.name):
        if link.is_inside(use.location.path):
            continue
        text = outputs.get(link.rest) if link.rest else next(iter(outputs.values()), None)
        if text is None or (not link.rest and len(outputs) > 1):
            message = f"'{link.scalar.text}' is not an output of the used workflow: {', '.join(outputs)}"
            refuse(link.scalar.mark, "unknown-output", message, link.path)
        deeper = link.block[len(use.block) :]
        if text.partition(".")[0] in ("carry", "loop") and deeper:
            message = f"the output is '{text}', which would mean another loop in '{link.path}'"
            refuse(use.location.mark, "bad-move", message, use.location.path)
        replacements.append(relink(document, link, text))
    return document.replace(replacements)


def _merge_requirements(document: Document, used: Document) -> Document:
    requires = find_value(document.root, "requires")
    for name, version in _items(find_value(used.root, "requires")):
        if find_entry(requires, name.text) is None:
            document = set_value(document, f"requires.{name.text}", version)
    return document

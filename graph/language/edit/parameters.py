"""Adding, removing and renaming parameters."""

from __future__ import annotations

from typing import Any

from guidegraph.graph.errors import suggest
from guidegraph.graph.language.edit.document import Document, find_entry, find_value, plain_text, refuse, to_tree
from guidegraph.graph.language.edit.entries import Link, insert_entry, list_links, relink, replace_key
from guidegraph.graph.language.edit.nodes import refuse_linked
from guidegraph.graph.language.edit.paths import Location, locate_value
from guidegraph.graph.language.edit.values import remove_step, render_value, set_value
from guidegraph.graph.language.parse import WORKFLOW_KEYS
from guidegraph.graph.language.yaml_tree import YamlMapping, shorten

REQUIRED = object()
"""The default of a parameter that has none and must be given."""


def add_parameter(
    document: Document, name: str, default: Any = REQUIRED, *, type: str = "", help: str = ""
) -> Document:
    """Add a parameter: with a default, a type (needed without a default), or both, and a help text.

    Raises ``WorkflowError`` if the name is taken or cannot be one.
    """
    mark = document.root.mark
    if not name.isidentifier():
        refuse(mark, "bad-name", f"expected a name of letters, digits and '_', found '{shorten(name)}'", "params")
    if find_entry(find_value(document.root, "params"), name):
        refuse(mark, "name-taken", f"there is a parameter '{shorten(name)}' already", f"params.{name}")
    if default is REQUIRED and not type:
        refuse(mark, "missing-key", "a parameter needs a 'default' or a 'type'", f"params.{shorten(name)}")
    entries: dict[str, Any] = {} if default is REQUIRED else {"default": default}
    entries |= {"type": plain_text(type)} if type else {}
    entries |= {"help": help} if help else {}
    short = set(entries) == {"default"} and not isinstance(default, (dict, YamlMapping))
    tree = to_tree(default if short else entries)
    params = find_value(document.root, "params")
    if isinstance(params, YamlMapping) and params.items:
        text = render_value(document, "literal", tree, None, flow=params.flow)
        return document.replace(insert_entry(document, params, name, text))
    if params is None and not document.root.flow:
        lines = ["", f"  {name}: {render_value(document, 'literal', tree, None, flow=False)}"]
        return document.replace(insert_entry(document, document.root, "params", lines, WORKFLOW_KEYS))
    declaration = YamlMapping([(plain_text("default"), tree)], tree.mark) if short else tree
    return set_value(document, f"params.{name}", declaration)


def remove_parameter(document: Document, name: str) -> Document:
    """Remove a parameter. Raises ``WorkflowError`` with the links to it, if there are any."""
    location = _locate(document, name)
    if links := _links_to(document, name):
        refuse_linked(location, links, "remove or change these links first")
    return document.replace(remove_step(document, location.steps))


def rename_parameter(document: Document, name: str, new: str) -> Document:
    """Rename a parameter and change all links to it. Raises ``WorkflowError`` if the new name is taken.

    Files that use this workflow as a node, and ``--set`` in scripts, name the parameter too; they are not changed.
    """
    location = _locate(document, name)
    if new == name:
        return document
    if not new.isidentifier():
        message = f"expected a name of letters, digits and '_', found '{shorten(new)}'"
        refuse(location.mark, "bad-name", message, location.path)
    step = location.steps[-1]
    if find_entry(step.collection, new):
        refuse(location.mark, "name-taken", f"there is a parameter '{shorten(new)}' already", location.path)
    assert step.key is not None
    replacements = replace_key(document, step.key, step.value, new)
    replacements += [relink(document, link, f"params.{new}") for link in _links_to(document, name)]
    return document.replace(replacements)


def _locate(document: Document, name: str) -> Location:
    path = f"params.{name}"
    location = locate_value(document, path)
    if location.kind != "parameter":
        params = find_value(document.root, "params")
        names = [key.text for key, _ in params.items] if isinstance(params, YamlMapping) else []
        hint = suggest(name[:60], names, "parameters")
        refuse(location.mark, "unknown-path", f"no parameter '{shorten(name)}'; {hint}", shorten(path))
    return location


def _links_to(document: Document, name: str) -> list[Link]:
    return [link for link in list_links(document) if link.scalar.text == f"params.{name}"]

"""Setting and removing values of a workflow: literals, links, names and whole entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guidegraph.graph.errors import suggest
from guidegraph.graph.language.edit.document import (
    Document,
    Replacement,
    can_be_plain,
    find_entry,
    find_value,
    is_empty,
    is_word,
    plain_text,
    refuse,
    render,
    render_entry,
    to_tree,
)
from guidegraph.graph.language.edit.entries import insert_entry, remove_item, replace_value
from guidegraph.graph.language.edit.paths import (
    PARAM_KEYS,
    Kind,
    Location,
    PathStep,
    classify,
    key_order,
    locate,
    locate_value,
    refuse_unknown,
)
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, YamlSequence, describe_tree, shorten

_ADDED_AS_MAPPING = {"parameter": "{default: …}", "node": "{use: …, in: {…}}"}
_OPTIONAL_GROUPS = ("in", "with", "collect", "params", "requires")


def set_value(document: Document, path: str, value: Any) -> Document:
    """Set the value at a path, and return the changed document.

    path: such as ``params.scale.default``, ``nodes.sample.body.guided.in.scale``, ``nodes.sample.loop.over`` or
    ``outputs.image``. value: a link (text) or a list of links where the language has links; elsewhere a Python value or
    a tree. A link in a node's ``in`` takes the place of a literal in its ``with``, and the other way round. A new node
    or parameter must be given as a mapping. Raises ``WorkflowError`` for a path that cannot exist.
    """
    location = locate(document, path)
    tree = to_tree(value)
    location = _in_parameter(location, tree)
    if (kind := location.kind) is None or (location.missing and not _can_be_added(location, kind, tree)):
        _refuse_path(location, kind)
    _check_value(location, kind, tree)
    document = document.replace(_write(location, kind, _keep_float(location, tree)))
    return _remove_alternative(document, location)


def remove_value(document: Document, path: str) -> Document:
    """Remove what stands at a path: a link, a setting, an output, a parameter's help; an empty group goes with it.

    Raises ``WorkflowError`` if the path does not exist.
    """
    location = locate_value(document, path)
    return document.replace(remove_step(document, location.steps))


def remove_step(document: Document, steps: tuple[PathStep, ...]) -> list[Replacement]:
    """Remove an entry; with the last one of a group that may be absent, the group's key too."""
    step = steps[-1]
    if len(step.collection.items) > 1:
        return remove_item(document, step.collection, step.index)
    names = [parent.name for parent in steps[:-1]]
    if names and names[-1] in _OPTIONAL_GROUPS and classify(document, names) == "group":
        return remove_step(document, steps[:-1])
    empty = "{}" if isinstance(step.collection, YamlMapping) else "[]"
    key = steps[-2].key if len(steps) > 1 else None
    return replace_value(document, key, step.collection, empty)


def _in_parameter(location: Location, tree: Tree) -> Location:
    """The location of a parameter's default where the path and its notation differ."""
    names = location.names
    if len(names) < 2 or names[0] != "params" or len(location.steps) < 2:
        return location
    written = location.steps[1].value
    is_declaration = isinstance(tree, YamlMapping) and any(key.text in ("default", "type") for key, _ in tree.items)
    if len(names) == 2 and isinstance(written, YamlMapping) and not is_declaration:
        return locate(location.document, f"{location.path}.default")
    if len(names) > 2 and names[2] == "default" and not isinstance(written, YamlMapping):  # params: {scale: 4.0}
        return locate(location.document, ".".join((*names[:2], *names[3:])))
    return location


def _keep_float(location: Location, tree: Tree) -> Tree:
    """A whole number as ``6.0`` in place of a default with a point, which is the parameter's type."""
    names, steps = location.names, location.steps
    is_default = names[:1] == ("params",) and not location.missing and (len(names) == 2 or names[2:] == ("default",))
    if not is_default or not isinstance(tree, Scalar) or type(tree.value) is not int:
        return tree
    old, declaration = steps[-1].value, steps[-1].collection if len(names) == 3 else None
    has_type = isinstance(declaration, YamlMapping) and find_value(declaration, "type") is not None
    was_float = isinstance(old, Scalar) and isinstance(old.value, float)
    return to_tree(float(tree.value)) if was_float and not has_type else tree


def _can_be_added(location: Location, kind: Kind, tree: Tree) -> bool:
    """Whether the end of a path may be added. A name that may be misspelt is added only as a whole mapping."""
    if kind in _ADDED_AS_MAPPING:
        return location.missing[:-1] in ((), ("params",)) and isinstance(tree, YamlMapping)
    if kind == "group":
        return len(location.missing) == 1 and not isinstance(tree, Scalar)
    names, group = location.names, location.names[-2] if len(location.names) > 1 else ""
    if isinstance(location.tree, YamlSequence) or (len(location.missing) > 1 and location.missing[0] not in _GROUPS):
        return False
    if names[0] == "params":
        return len(location.missing) == 1 and location.missing[0] in PARAM_KEYS
    return not (kind == "literal" and group != "with")


_GROUPS = ("in", "with", "carry", "next", "collect", "outputs", "requires", "checkpoint")


def _refuse_path(location: Location, kind: Kind | None) -> None:
    if kind in _ADDED_AS_MAPPING and len(location.missing) == 1 and location.steps:
        names = [key.text for key, _ in location.tree.items] if isinstance(location.tree, YamlMapping) else []
        name = location.missing[0]
        hint = suggest(name[:60], names, f"{kind}s")
        message = f"no {kind} '{shorten(name)}'; {hint}; to add it, set it to {_ADDED_AS_MAPPING[kind]}"
        refuse(location.mark, "unknown-path", message, shorten(location.path))
    if location.missing:
        refuse_unknown(location)
    message = f"'{shorten(location.path)}' cannot be set: name a value in it"
    refuse(location.mark, "unknown-path", message, shorten(location.path))


def _check_value(location: Location, kind: Kind | None, tree: Tree) -> None:
    """Raise ``WorkflowError`` for a link or a name that is not a text, and for a group that is not a mapping."""
    if kind == "link":
        items = tree.items if isinstance(tree, YamlSequence) and location.names[-2] == "in" else [tree]
        if not all(isinstance(item, Scalar) and item.text and isinstance(item.value, str) for item in items):
            message = f"expected a link such as model.text, found {describe_tree(tree)}"
            refuse(location.mark, "not-a-link", message, shorten(location.path))
    elif kind in ("name", "text") and not (isinstance(tree, Scalar) and (tree.text or kind == "text")):
        refuse(location.mark, "bad-value", f"expected a text, found {describe_tree(tree)}", shorten(location.path))
    elif kind in ("node", "group", "entry") and not isinstance(tree, (YamlMapping, YamlSequence)):
        refuse(
            location.mark, "not-a-mapping", f"expected a mapping, found {describe_tree(tree)}", shorten(location.path)
        )


def _write(location: Location, kind: Kind | None, tree: Tree) -> list[Replacement]:
    document = location.document
    if not location.missing:
        step = location.steps[-1]
        text = render_value(document, kind, tree, step.value, flow=any(step.collection.flow for step in location.steps))
        return replace_value(document, step.key, step.value, text)
    *groups, name = location.missing
    if (
        location.names[0] == "params" and len(location.steps) == 2 and isinstance(location.tree, Scalar)
    ):  # params: {scale: 4.0} gets a help
        step = location.steps[-1]
        entry = render_entry(plain_text(name), Scalar("", True, step.value.mark), flow=True).removesuffix("null")
        text = render_value(document, location.kind, tree, None, flow=True)
        default = render(step.value, flow=True, quote=_quote_of(document, step.value))
        return replace_value(document, step.key, step.value, f"{{default: {default}, {entry}{text}}}")
    parent = location.tree
    flow = bool(groups) or not isinstance(parent, YamlMapping) or parent.flow
    text = render_value(document, kind, tree, None, flow=flow)
    for group in reversed(groups):
        text, name = f"{{{render(plain_text(name), flow=True, quote='')}: {text}}}", group
    if isinstance(parent, YamlMapping) and parent.items:
        order = key_order(document, location.names[: len(location.steps)])
        return insert_entry(document, parent, name, text, order)
    entry = f"{{{render(plain_text(name), flow=True, quote='')}: {text}}}"
    return replace_value(document, location.steps[-1].key, parent, entry)


def render_value(document: Document, kind: Kind | None, tree: Tree, old: Tree | None, *, flow: bool) -> str:
    """A value as text, in the style of the one whose place it takes, or of the file."""
    if not isinstance(tree, Scalar):
        tree = tree if kind in ("literal", "parameter") else unquote_links(document, tree)
        return render(tree, flow=flow, quote=usual_quote(document))
    if kind in ("link", "name", "option"):
        return render(Scalar(tree.text, False, tree.mark) if kind != "option" else tree, flow=flow, quote="")
    if kind == "text":
        tree = Scalar(tree.text, False, tree.mark)
        return render(tree, flow=flow, quote=_quote_of(document, old) if old else usual_quote(document))
    is_text = isinstance(tree.value, str)
    quote = _quote_of(document, old) if is_text and isinstance(old, Scalar) and isinstance(old.value, str) else None
    if quote is None:
        quote = "" if is_word(tree.text) and _has_plain_words(document) else usual_quote(document)
    is_link = "." in tree.text and "/" not in tree.text  # it would be taken for one without quotes
    quote = quote or ("" if not is_link and can_be_plain(tree.text, flow) else '"')
    return render(Scalar(tree.text, not is_text, tree.mark), flow=flow, quote=quote)


def unquote_links(document: Document, tree: Tree) -> Tree:
    """A node, a group or a list of links to be written without quotes, except for literals that the file quotes.

    A text that would then be read as a number, such as a version, keeps its quotes.
    """
    if isinstance(tree, Scalar):
        plain = plain_text(tree.text)
        return plain if isinstance(tree.value, str) and isinstance(plain.value, str) else tree
    if isinstance(tree, YamlSequence):
        return YamlSequence([unquote_links(document, item) for item in tree.items], tree.mark)
    if isinstance(tree, YamlMapping):
        items = []
        for key, value in tree.items:
            settings = value.items if key.text == "with" and isinstance(value, YamlMapping) else None
            if settings is None:
                items.append((key, unquote_links(document, value)))
            else:
                literals = [
                    (name, plain_text(literal.text))
                    if isinstance(literal, Scalar) and is_word(literal.text) and _has_plain_words(document)
                    else (name, literal)
                    for name, literal in settings
                ]
                items.append((key, YamlMapping(literals, value.mark)))
        return YamlMapping(items, tree.mark)
    return tree


def _quote_of(document: Document, tree: Tree) -> str:
    first = document.text[tree.span[0] : tree.span[0] + 1]
    return first if first in ("'", '"') else '"' if first in ("|", ">") else ""


def usual_quote(document: Document) -> str:
    """The quotes that the file uses most."""
    quotes = [_quote_of(document, scalar) for scalar in iterate_scalars(document.root)]
    return "'" if quotes.count("'") > quotes.count('"') else '"'


def _has_plain_words(document: Document) -> bool:
    """Whether the file writes words among its literals without quotes, and none with."""
    words = [scalar for scalar in _literal_texts(document.root) if is_word(scalar.text)]
    return bool(words) and all(scalar.plain for scalar in words)


def _literal_texts(tree: Tree) -> Iterator[Scalar]:
    if isinstance(tree, YamlMapping):
        for key, value in tree.items:
            if key.text in ("with", "default"):
                yield from (scalar for scalar in iterate_scalars(value) if isinstance(scalar.value, str))
            else:
                yield from _literal_texts(value)


def iterate_scalars(tree: Tree) -> Iterator[Scalar]:
    """All scalars of a tree that are values, in order."""
    if isinstance(tree, Scalar):
        yield tree
    elif isinstance(tree, YamlSequence):
        for item in tree.items:
            yield from iterate_scalars(item)
    elif isinstance(tree, YamlMapping):
        for _, value in tree.items:
            yield from iterate_scalars(value)


def _remove_alternative(document: Document, location: Location) -> Document:
    """Remove the literal of a port that is now linked, or the link of a setting that now has a literal."""
    names = location.names
    for group, other in (("in", "with"), ("with", "in")):
        if names[0] == "nodes" and len(names) > 3 and names[-2] == group and location.kind in ("link", "literal"):
            node = locate(document, ".".join(names[:-2])).tree
            if find_entry(find_value(node, other), names[-1]) and not is_empty(find_value(node, other)):
                return remove_value(document, ".".join((*names[:-2], other, names[-1])))
    return document

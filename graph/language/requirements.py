"""``requires``: the plugins and nodes that a workflow needs, with their versions."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping

from guidegraph.graph.errors import Mark, Problem, suggest
from guidegraph.graph.language.yaml_tree import Scalar, shorten
from guidegraph.graph.registry import Registry

DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""A distribution's name (PEP 508); safe to copy into a shell."""


def find_requirement_problems(requires: Mapping[str, tuple[Mark, Scalar]], registry: Registry) -> list[Problem]:
    """A problem for each requirement that is not met.

    A requirement names a distribution (normalised as pip does) or a node's id, for the version of that node.
    """
    if not requires:
        return []
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion

    problems: list[Problem] = []
    for name, (mark, tree) in requires.items():
        location, text = f"requires.{shorten(name)}", tree.text
        try:
            specifier = SpecifierSet(text)
        except InvalidSpecifier:
            message = f"expected a version such as '>=0.1', found '{shorten(text)}'"
            problems.append(Problem(tree.mark, "bad-value", message, location))
            continue
        node = registry.nodes.get(name)
        version = node.version if node is not None else registry.versions.get(canonicalize_name(name))
        if version is None and (reason := registry.absent.get(canonicalize_name(name))) is not None:
            problems.append(
                Problem(mark, "missing-plugin", f"the plugin '{name}' is not available: {reason}", location)
            )
            continue
        if version is None:
            problems.append(Problem(mark, "missing-plugin", _explain_absence(name, registry), location))
            continue
        try:
            met = specifier.contains(version, prereleases=True)
        except InvalidVersion:
            met = False
        if not met:
            message = f"'{name}' {text} is required, version {version} is installed"
            problems.append(Problem(tree.mark, "plugin-version", message, location))
    return problems


def _explain_absence(name: str, registry: Registry) -> str:
    """The message for a required plugin that is missing."""
    hint = suggest(name[:60], registry.versions, "installed")
    if not DISTRIBUTION.fullmatch(name):
        return f"the plugin '{shorten(name)}' is not installed, and its name is not valid; {hint}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"the plugin '{shorten(name)}' is not installed: pip install {name}; {hint}"
    reason = f"'{shorten(name)}' is installed, version {version}, and is not a plugin that is in use"
    return f"{reason}; 'requires' takes plugins and nodes, so remove it"

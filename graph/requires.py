"""``requires``: the plugins and nodes that a workflow needs, and their versions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from guidegraph.graph.errors import Mark, Problem, choices
from guidegraph.graph.registry import Registry
from guidegraph.graph.yamltree import Scalar, short

DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""A name of a distribution (PEP 508), which a shell takes for nothing else."""


def unmet(requires: Mapping[str, tuple[Mark, Scalar]], registry: Registry) -> list[Problem]:
    """The requirements that are not met.

    A name is that of a distribution, as pip compares names, or a node's id, for the version of that node.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion

    problems: list[Problem] = []
    for name, (mark, tree) in requires.items():
        where, text = f"requires.{short(name)}", tree.text
        try:
            wanted = SpecifierSet(text)
        except InvalidSpecifier:
            message = f"expected a version such as '>=0.1', found '{short(text)}'"
            problems.append(Problem(tree.mark, "bad-value", message, where))
            continue
        node = registry.nodes.get(name)
        version = node.version if node is not None else registry.versions.get(canonicalize_name(name))
        if version is None and (reason := registry.absent.get(canonicalize_name(name))) is not None:
            problems.append(Problem(mark, "missing-plugin", f"the plugin '{name}' is not there: {reason}", where))
            continue
        if version is None:
            hint = choices(name[:60], registry.versions, "installed")
            install = f": pip install {name}" if DISTRIBUTION.fullmatch(name) else ", and that is no name of one"
            message = f"the plugin '{short(name)}' is not installed{install}; {hint}"
            problems.append(Problem(mark, "missing-plugin", message, where))
            continue
        try:
            met = wanted.contains(version, prereleases=True)
        except InvalidVersion:
            met = False
        if not met:
            message = f"'{name}' {text} is required, version {version} is installed"
            problems.append(Problem(tree.mark, "plugin-version", message, where))
    return problems

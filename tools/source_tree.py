"""The product's modules, and which of them import which.

Needs networkx and nothing else of the project.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("graph", "nodes", "plugins", "guidegraph", "runtime")
"""The top folders of the product; in the first three lies a sub-package of ``guidegraph``, as in setup.py."""
IN_CORE = ("graph", "nodes", "plugins")
"""Those that are one distribution with ``guidegraph``."""
EXCLUDED = ("plugins/gallery",)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A product file: its path relative to the root, and the name that it is imported by."""

    root: Path
    path: Path
    name: str

    @property
    def layer(self) -> str:
        """The top folder, or the distribution in plugins/."""
        parts = self.path.parts
        return parts[1] if parts[0] == "plugins" and len(parts) > 2 else parts[0]

    @property
    def folder(self) -> str:
        return self.path.parent.as_posix()

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return (self.root / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def functions(self) -> Iterator[Function]:
        return (item for item in ast.walk(self.tree) if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))


def product_modules(root: Path = ROOT) -> list[Module]:
    """All modules of the product, sorted by layer and path."""
    modules = []
    for layer in LAYERS:
        for path in sorted((root / layer).rglob("*.py")):
            relative = path.relative_to(root)
            parts = relative.parts
            is_link = any((root / parent).is_symlink() for parent in relative.parents)
            skipped = {"template", "build", "tests", "__pycache__"} & set(parts) or parts[-1] == "setup.py"
            if not (is_link or skipped or relative.as_posix().startswith(EXCLUDED)):
                modules.append(Module(root, relative, _import_name(relative)))
    return modules


def _import_name(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    if parts[0] == "runtime":
        parts = parts[1:]
    elif parts[0] == "plugins" and len(parts) > 2:
        parts = parts[2:]
    elif parts[0] != "guidegraph":
        parts = ["guidegraph", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(modules: list[Module], *, types: bool = True, lazy: bool = True) -> nx.DiGraph[str]:
    """The modules of the product by name, with an edge to each that a module imports.

    types: also imports for type checkers alone. lazy: also imports inside of functions.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    names = {module.name for module in modules}
    graph.add_nodes_from(sorted(names))
    for module in modules:
        for target in _imports(module, names, types, lazy):
            if target != module.name:
                graph.add_edge(module.name, target)
    return graph


def _imports(module: Module, names: set[str], types: bool, lazy: bool) -> Iterator[str]:
    for item in _statements(module.tree.body, types, lazy):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names if alias.name in names)
        elif isinstance(item, ast.ImportFrom):
            base = _base(module, item)
            for alias in item.names:
                target = f"{base}.{alias.name}"
                if target in names:
                    yield target
                elif base in names:
                    yield base


def _base(module: Module, item: ast.ImportFrom) -> str:
    """The absolute name of the package or module that an import names."""
    if not item.level:
        return item.module or ""
    parents = module.name.split(".")
    parents = parents[: len(parents) - item.level + module.is_package]
    return ".".join([*parents, *([item.module] if item.module else [])])


def _statements(body: list[ast.stmt], types: bool, lazy: bool) -> Iterator[ast.stmt]:
    """All statements, at any depth, in which an import counts."""
    for item in body:
        yield item
        if isinstance(item, Function) and not lazy:
            continue
        is_for_types = isinstance(item, ast.If) and ast.unparse(item.test).endswith("TYPE_CHECKING")
        for name in ("body", "orelse", "finalbody"):
            if name != "body" or types or not is_for_types:
                yield from _statements(getattr(item, name, []), types, lazy)
        for handler in getattr(item, "handlers", []):
            yield from _statements(handler.body, types, lazy)


def distribution_graph(modules: list[Module]) -> nx.DiGraph[str]:
    """The distributions of the project, with an edge to each that one imports from; ``count`` imports of modules."""
    homes = {module.name: module.layer if module.layer not in IN_CORE else "guidegraph" for module in modules}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for source, target in import_graph(modules).edges:
        a, b = homes[source], homes[target]
        if a != b:
            count: int = graph.edges[a, b]["count"] + 1 if graph.has_edge(a, b) else 1
            graph.add_edge(a, b, count=count)
    return graph


def folder_graph(modules: list[Module]) -> nx.DiGraph[str]:
    """The folders of the product, with an edge to each that a folder imports from; ``count`` imports of modules."""
    folders = {module.name: module.folder for module in modules}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(sorted(set(folders.values())))
    for source, target in import_graph(modules).edges:
        a, b = folders[source], folders[target]
        if a != b:
            count: int = graph.edges[a, b]["count"] + 1 if graph.has_edge(a, b) else 1
            graph.add_edge(a, b, count=count)
    return graph


def import_circles(modules: list[Module], *, types: bool = False, lazy: bool = True) -> list[list[str]]:
    """Groups of modules each of which imports each other one, directly or through others of the group.

    The face ``guidegraph`` names everything for type checkers, and is left out.
    """
    graph = import_graph(modules, types=types, lazy=lazy)
    graph.remove_nodes_from([name for name in ("guidegraph", "guidegraph_runtime") if name in graph])
    return sorted(sorted(ring) for ring in nx.strongly_connected_components(graph) if len(ring) > 1)


def import_pairs(modules: list[Module], *, types: bool = False, lazy: bool = True) -> list[tuple[str, str]]:
    """Pairs of modules that import each other."""
    graph = import_graph(modules, types=types, lazy=lazy)
    return sorted((a, b) for a, b in graph.edges if a < b and graph.has_edge(b, a) and "." in a)

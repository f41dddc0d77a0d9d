"""Facts about the product's source tree: sizes, names, imports and docstrings.

    python tools/house.py sizes                 # files and lines by top folder, folders, lengths of functions
    python tools/house.py classes               # class names that occur more than once in a layer
    python tools/house.py functions             # function names that are participles or adverbs
    python tools/house.py variables             # how often variables and arguments have vague names
    python tools/house.py imports [--dot]       # which folders import which
    python tools/house.py circles [--types]     # modules that import each other; --types: type-checking imports too
    python tools/house.py docstrings            # docstrings that hang on a clause ("what it …")
    python tools/house.py random N SEED         # N files and N docstrings, drawn by a seed

The tree is the checkout that this file is in, or that of --root. --all lists every finding where a command prints the
first only. Needs networkx and nothing else of the project.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import networkx as nx

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.source_tree import (
    LAYERS,
    ROOT,
    Function,
    Module,
    folder_graph,
    import_circles,
    import_graph,
    import_pairs,
    product_modules,
)

LONG = 40
FIRST = 30


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IRREGULAR = _words("""
    beaten begun bent bound brought built caught chosen cut done drawn driven eaten fallen fed felt forgotten
    found frozen given gone grown heard held hidden kept known laid led left lent lost made meant met paid put
    read ridden risen run said seen sent set shown shut sold sought spent split spoken stolen stood stuck taken
    taught thought thrown told torn understood won worn woven written
""")
"""Past participles that do not end in -ed."""
ADVERBS = _words("""
    alone anew apart aside away back beside here inside outside quiet there together
""")
VERBS = _words("""
    bind cut embed exceed feed need proceed put read run seed set shed shut speed split succeed
""")
"""Verbs that look like participles, whose base form also ends in -ed or is the participle itself."""
NOUNS = _words("""
    bed led red seed speed unneeded
""")
PREFIXES = _words("""
    is has can needs takes uses with test
""")
"""First words after which a participle is fine: of predicates and tests."""
PREPOSITIONS = _words("""
    as by from in of on to
""")
QUANTITIES = _words("""
    weighted_loss
""")
"""Function names that are kept, though they begin with a participle: those of a mathematical quantity."""

VAGUE = _words("""
    found given one wanted where at said known here there those rest asked named told what others both whole apart
""")
CLAUSE = re.compile(
    r"\b[Ww]hat (it|the|a|an|is|there|of|each|this|was|has|they|its|one)\b|\bthat there is\b|\bis no\b|\banew\b"
)


# --- sizes -----------------------------------------------------------------------------------------------------------


def folder_sizes(modules: list[Module]) -> Counter[str]:
    """How many .py files each folder holds itself, without its ``__init__.py``."""
    return Counter(module.folder for module in modules if not module.is_package)


def function_lengths(modules: list[Module]) -> dict[str, int]:
    """The lines of each function, decorators aside, by its location."""
    return {
        f"{module.path}:{function.lineno} {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module in modules
        for function in module.functions()
    }


def print_sizes(modules: list[Module], limit: int | None) -> None:
    layers = Counter(module.layer for module in modules)
    lines = Counter[str]()
    for module in modules:
        lines[module.layer] += len(module.text.splitlines())
    for layer in LAYERS:
        print(f"{layer:12} {layers[layer]:4} files {lines[layer]:6} lines")
    print(f"{'product':12} {layers.total():4} files {lines.total():6} lines")
    tests = [path.read_text(encoding="utf-8") for path in (modules[0].root / "tests").rglob("*.py")]
    print(f"{'tests':12} {len(tests):4} files {sum(len(text.splitlines()) for text in tests):6} lines")
    for folder, count in folder_sizes(modules).most_common(limit and 8):
        print(f"folder {folder}: {count} files")
    lengths = function_lengths(modules)
    long = {name: length for name, length in lengths.items() if length > LONG}
    share = 100 * len(long) / len(lengths)
    print(
        f"functions: {len(lengths)}, median {median(lengths.values()):g} lines, {len(long)} over {LONG} ({share:.1f} %)"
    )
    for name, length in sorted(long.items(), key=lambda pair: -pair[1])[: limit and 5]:
        print(f"  {length} lines: {name}")
    classes = [
        ((item.end_lineno or 0) - item.lineno + 1, f"{module.path}:{item.lineno} {item.name}")
        for module in modules
        for item in ast.walk(module.tree)
        if isinstance(item, ast.ClassDef)
    ]
    for length, name in sorted((pair for pair in classes if pair[0] > 200), reverse=True):
        print(f"class of {length} lines: {name}")


# --- names -----------------------------------------------------------------------------------------------------------


def repeated_classes(modules: list[Module]) -> dict[str, list[str]]:
    """The files of each class name that stands more than once within a layer, by ``layer Name``."""
    files: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for item in module.tree.body:
            if isinstance(item, ast.ClassDef):
                files[f"{module.layer} {item.name.lstrip('_')}"].append(str(module.path))
    return {name: paths for name, paths in sorted(files.items()) if len(paths) > 1}


def is_participle(name: str) -> bool:
    """Whether a function's name begins with a participle or an adverb, or ends so after a preposition."""
    words = name.strip("_").split("_")
    if words[0] in PREFIXES or name.startswith("__") or name.strip("_") in QUANTITIES:
        return False
    word = words[-1] if words[0] in PREPOSITIONS else words[0]
    if word in VERBS | NOUNS:
        return False
    alone = len(words) == 1 and word in ADVERBS
    return word in IRREGULAR or alone or (word.endswith("ed") and len(word) > 3)


def participles(modules: list[Module]) -> list[str]:
    """The location and name of each function named by a participle or an adverb. Properties are nouns, and left out."""
    return [
        f"{module.path}:{function.lineno} {function.name}"
        for module in modules
        for function in module.functions()
        if is_participle(function.name) and not _is_property(function)
    ]


def _is_property(function: Function) -> bool:
    names = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in function.decorator_list}
    return bool(names & {"property", "cached_property", "setter"})


def vague_names(modules: list[Module]) -> dict[str, list[str]]:
    """Where each vague name is assigned to, or is an argument."""
    locations: dict[str, list[str]] = {name: [] for name in sorted(VAGUE)}
    for module in modules:
        for item in ast.walk(module.tree):
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                name = item.id
            elif isinstance(item, ast.arg):
                name = item.arg
            else:
                continue
            if name in locations:
                locations[name].append(f"{module.path}:{item.lineno}")
    return locations


def print_imports(modules: list[Module], dot: bool) -> None:
    graph = folder_graph(modules)
    if dot:
        print("digraph folders {\n  rankdir=LR; node [shape=box];")
        for folder in graph:
            print(f'  "{folder}";')
        for a, b, count in graph.edges(data="count"):
            print(f'  "{a}" -> "{b}" [label={count}];')
        print("}")
        return
    for folder in graph:
        targets = ", ".join(f"{b} {graph.edges[folder, b]['count']}" for b in sorted(graph.successors(folder)))
        print(f"{folder} -> {targets or '(nothing)'}")
    print(f"{graph.number_of_nodes()} folders, {graph.number_of_edges()} arrows")
    modules_graph = import_graph(modules)
    for layer in LAYERS:
        inside = {module.name for module in modules if module.layer == layer}
        arrows = modules_graph.subgraph(inside).number_of_edges()
        print(f"{layer}: {len(inside)} modules, {arrows} imports among them")
    rings = [sorted(ring) for ring in nx.strongly_connected_components(graph) if len(ring) > 1]
    for ring in sorted(rings):
        print(f"folders in a circle: {', '.join(ring)}")


# --- docstrings ------------------------------------------------------------------------------------------------------


def docstrings(modules: list[Module]) -> Iterator[tuple[str, str]]:
    """The location and the text of every docstring."""
    for module in modules:
        for item in ast.walk(module.tree):
            if isinstance(item, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(item)):
                yield f"{module.path}:{getattr(item, 'lineno', 1)}", text


def clauses(modules: list[Module], *, first: bool = False) -> list[str]:
    """The location and the first line of each docstring that hangs on a clause.

    first: only of those whose first line does.
    """
    lines = [(name, text, text.splitlines()[0]) for name, text in docstrings(modules)]
    return [f"{name}: {line}" for name, text, line in lines if CLAUSE.search(line if first else text)]


# --- commands --------------------------------------------------------------------------------------------------------


def print_list(title: str, lines: list[str], limit: int | None) -> None:
    """Print how many lines there are, and the first of them."""
    print(f"{title}: {len(lines)}")
    for line in lines[:limit]:
        print(f"  {line}")
    if limit is not None and len(lines) > limit:
        print(f"  … {len(lines) - limit} more: --all")


def print_circles(modules: list[Module], types: bool, limit: int | None) -> None:
    for lazy in (False, True):
        kind = "with imports inside of functions" if lazy else "at the top of modules"
        pairs = [" <-> ".join(pair) for pair in import_pairs(modules, types=types, lazy=lazy)]
        print_list(f"pairs, {kind}", pairs, limit)
        rings = [", ".join(ring) for ring in import_circles(modules, types=types, lazy=lazy)]
        print_list(f"circles, {kind}", rings, limit)


def print_random(modules: list[Module], count: int, seed: int) -> None:
    draw = random.Random(seed)
    with_code = [module for module in modules if len(module.tree.body) > 1]  # not a docstring alone
    for module in draw.sample(with_code, count):
        print(module.path)
    for name, text in draw.sample(list(docstrings(modules)), count):
        print(f"\n{name}\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Facts about the product's source tree.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("numbers", nargs="*", type=int, help="of random: how many, and the seed")
    parser.add_argument("--all", action="store_true", help="every finding, not only the first")
    parser.add_argument("--dot", action="store_true", help="imports for Graphviz")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    parser.add_argument("--types", action="store_true", help="imports for type checkers count in circles too")
    arguments = parser.parse_args()
    modules, limit = product_modules(arguments.root.resolve()), None if arguments.all else FIRST
    match arguments.command:
        case "sizes":
            print_sizes(modules, limit)
        case "classes":
            repeated = [f"{name}: {', '.join(paths)}" for name, paths in repeated_classes(modules).items()]
            print_list("class names more than once in a layer", repeated, limit)
        case "functions":
            print_list("functions named by a participle or an adverb", participles(modules), limit)
        case "variables":
            counts = {name: len(lines) for name, lines in vague_names(modules).items()}
            for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
                print(f"{name:8} {count:5}")
            print(f"{'all':8} {sum(counts.values()):5}")
        case "imports":
            print_imports(modules, arguments.dot)
        case "circles":
            print_circles(modules, arguments.types, limit)
        case "docstrings":
            print(f"docstrings: {sum(1 for _ in docstrings(modules))}")
            print(f"docstrings that hang on a clause: {len(clauses(modules))}")
            print_list("docstrings whose first line does", clauses(modules, first=True), limit)
        case "random":
            if len(arguments.numbers) != 2:
                parser.error("random needs two numbers: how many, and the seed")
            print_random(modules, *arguments.numbers)


COMMANDS = ("sizes", "classes", "functions", "variables", "imports", "circles", "docstrings", "random")

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # such as `| head`
    main()

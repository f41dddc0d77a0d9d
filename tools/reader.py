"""Count what a reader of the product pays for, and list the places.

    python tools/reader.py [FOLDER …] [--list crumbs|importers|imports|variants|torch]

crumbs: private functions with exactly one caller. importers: small modules that one other module imports. imports:
import statements inside functions. variants: `isinstance` checks of the graph's and the language's variants. torch:
private names of torch. Without FOLDER the whole product is counted. Needs networkx and nothing else of the project.
"""

from __future__ import annotations

import argparse
import ast
import re
import signal
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.source_tree import ROOT, Module, import_graph, product_modules

VARIANTS = frozenset(["Loop", "Call", "Param", "Choice"])
SMALL = 70
"""Lines below which a module with one importer counts as a crumb."""


def functions_with_one_caller(module: Module) -> list[str]:
    """Private functions and methods of a module that its code names exactly once outside of their own bodies."""
    uses: Counter[str] = Counter()
    for item in ast.walk(module.tree):
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load):
            uses[item.id] += 1
        elif isinstance(item, ast.Attribute):
            uses[item.attr] += 1
    found = []
    for function in module.functions():
        if not function.name.startswith("_") or function.name.startswith("__") or function.decorator_list:
            continue
        own = sum(
            (isinstance(item, ast.Name) and item.id == function.name)
            or (isinstance(item, ast.Attribute) and item.attr == function.name)
            for item in ast.walk(function)
        )
        if uses[function.name] - own == 1:
            length = (function.end_lineno or 0) - function.lineno + 1
            found.append(f"{module.path}:{function.lineno} {function.name} ({length} lines)")
    return found


def imports_in_functions(module: Module) -> list[str]:
    """Import statements inside functions."""
    lines = {
        item.lineno
        for function in module.functions()
        for item in ast.walk(function)
        if isinstance(item, ast.Import | ast.ImportFrom)
    }
    texts = module.text.splitlines()
    return [f"{module.path}:{line} {texts[line - 1].strip()}" for line in sorted(lines)]


def import_lines(module: Module) -> int:
    """Lines that import statements take."""
    return sum(
        (item.end_lineno or 0) - item.lineno + 1
        for item in ast.walk(module.tree)
        if isinstance(item, ast.Import | ast.ImportFrom)
    )


def variant_checks(module: Module) -> list[str]:
    """`isinstance` calls that name a variant of the graph or of the language."""
    found = []
    for item in ast.walk(module.tree):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "isinstance":
            types = ast.unparse(item.args[1]).replace("ast.Call", "")
            if VARIANTS & set(re.findall(r"\w+", types)):
                found.append(f"{module.path}:{item.lineno} {ast.unparse(item)}")
    return found


def torch_privates(module: Module) -> list[str]:
    """Uses of private names of torch, in imports and in attributes."""
    found = []
    for item in ast.walk(module.tree):
        name = ""
        if isinstance(item, ast.ImportFrom) and (item.module or "").split(".")[0] == "torch":
            name = ".".join([item.module or "", *(alias.name for alias in item.names)])
        elif isinstance(item, ast.Attribute):
            name = re.sub(r"\(.*\)", "()", ast.unparse(item), flags=re.DOTALL)
        parts = name.split(".")
        is_private = any(part.startswith("_") and not part.startswith("__") for part in parts[1:])
        if parts[0] == "torch" and (is_private or "torch.fx.experimental" in name):
            found.append(f"{module.path}:{item.lineno} {name}")
    return [line for line in found if not any(other != line and other.startswith(line + ".") for other in found)]


def modules_with_one_importer(modules: list[Module], small: int) -> list[str]:
    """Modules of fewer than ``small`` lines that exactly one other module imports."""
    graph = import_graph(modules)
    found = []
    for module in modules:
        length = len(module.text.splitlines())
        if module.is_package or length >= small or graph.in_degree(module.name) != 1:
            continue
        importer = next(iter(graph.predecessors(module.name)))
        found.append(f"{module.path} ({length} lines) <- {importer}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what a reader of the product pays for.")
    parser.add_argument("folders", nargs="*", type=Path, help="count these folders only")
    parser.add_argument("--list", choices=["crumbs", "importers", "imports", "variants", "torch"])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    arguments = parser.parse_args()
    everything = product_modules(arguments.root.resolve())
    prefixes = tuple(f"{folder.as_posix().rstrip('/')}/" for folder in arguments.folders) or ("",)
    modules = [module for module in everything if module.path.as_posix().startswith(prefixes)]
    lists = {
        "crumbs": [line for module in modules for line in functions_with_one_caller(module)],
        "importers": [line for line in modules_with_one_importer(everything, SMALL) if line.startswith(prefixes)],
        "imports": [line for module in modules for line in imports_in_functions(module)],
        "variants": [line for module in modules for line in variant_checks(module)],
        "torch": [line for module in modules for line in torch_privates(module)],
    }
    if arguments.list:
        print("\n".join(lists[arguments.list]))
        return
    lines = {module.path: len(module.text.splitlines()) for module in modules}
    total, functions = sum(lines.values()), sum(1 for module in modules for _ in module.functions())
    print(f"{len(modules)} files, {total} lines; {sum(n < SMALL for n in lines.values())} files under {SMALL} lines")
    print(f"private functions with one caller: {len(lists['crumbs'])} of {functions} functions", end="")
    print(f" ({100 * len(lists['crumbs']) / max(functions, 1):.1f} %)")
    print(f"small modules with one importer: {len(lists['importers'])}")
    print(f"import lines: {100 * sum(map(import_lines, modules)) / max(total, 1):.1f} % of all lines")
    print(f"imports inside functions: {len(lists['imports'])}")
    places = {line.split(":")[0] for line in lists["variants"]}
    print(f"isinstance of {', '.join(sorted(VARIANTS))}: {len(lists['variants'])} in {len(places)} files")
    places = {line.split(":")[0] for line in lists["torch"]}
    print(f"private names of torch: {len(lists['torch'])} in {len(places)} files")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # such as `| head`
    main()

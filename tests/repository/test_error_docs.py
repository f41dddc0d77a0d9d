"""docs/reference/errors.md lists the codes that the code has, all of them and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.paths import ROOT

CODE = re.compile(r"[a-z]+(-[a-z]+)+|alias|tag|cycle|empty")
REPORTERS = {
    "Problem",
    "add",
    "_add",
    "fail",
    "_fail",
    "report",
    "argument_problem",
    "refuse",
    "_file_error",
    "_make_error",
}


def sources() -> list[ast.Module]:
    packages = (f"plugins/{name}/guidegraph_{name}" for name in ("browser", "lab", "page"))
    folders = ("graph", "guidegraph", *packages)
    return [ast.parse(file.read_text()) for folder in folders for file in (ROOT / folder).rglob("*.py")]


def texts(modules: list[ast.Module]) -> Iterator[str]:
    for module in modules:
        for part in ast.walk(module):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def reported_codes(modules: list[ast.Module]) -> Iterator[str]:
    """The codes that are given to a function that reports."""
    for module in modules:
        for call in (part for part in ast.walk(module) if isinstance(part, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name not in REPORTERS:
                continue
            for argument in call.args[:3]:
                value = argument.value if isinstance(argument, ast.Constant) else None
                if isinstance(value, str) and CODE.fullmatch(value):
                    yield value


def documented_codes() -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "reference" / "errors.md").read_text(), re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}


def test_every_code_is_documented() -> None:
    assert sorted(set(reported_codes(sources())) - documented_codes()) == []


def test_every_documented_code_exists() -> None:
    all_text = "\n".join(texts(sources()))
    assert [code for code in sorted(documented_codes()) if not re.search(rf"(?<![\w-]){code}(?![\w-])", all_text)] == []

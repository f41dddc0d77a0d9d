"""The page's modules in Node, for tests."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from tests.nodejs import run_node

PRELUDE = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const show = (value) => console.log(JSON.stringify(value, (_, item) =>
  typeof item === "bigint" ? String(item) : ArrayBuffer.isView(item) ? Array.from(item) : item));
const catchMessage = (call) => { try { return call(); } catch (error) { return { message: error.message }; } };
"""
"""`given`: the values of the test. `show` prints a value as JSON, with 64-bit integers as texts."""


def run_script(folder: Path, script: str, given: Any = None) -> Any:
    """What a script shows that imports the page's modules. Skips the test where there is no Node."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with as_file(files("guidegraph_browser").joinpath("static")) as static:
        shutil.copytree(static, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "given.json").write_text(json.dumps(given), encoding="utf-8")
    (folder / "script.js").write_text(PRELUDE + script, encoding="utf-8")
    return json.loads(run_node("script.js", "given.json", cwd=folder))

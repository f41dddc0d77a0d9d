"""Files that come from elsewhere are opened by one door, which refuses pipes, devices and files of any size.

The door is ``open_regular``, with ``read_regular`` and ``read_json``: a named pipe as a run.json would hang
the page. This test is the lint rule: other ways to open a file for reading are named below, with their reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

ALLOWED = {
    "graph/export/bundle.py": "opens the file that it writes, and hashes files that it has just written",
    "graph/hardware/policy.py": "reads /proc",
    "graph/planning/digest.py": "reads the code of installed packages, hundreds of files in a run",
    "guidegraph/commands/plugin_template.py": "reads the package's own template",
    "guidegraph/commands/shared/errors.py": "opens the null device",
    "plugins/page/guidegraph_page/server.py": "reads the package's own page",
    "plugins/page/guidegraph_page/view.py": "a workflow's own read_text, which is through the door",
    "plugins/lab/guidegraph_lab/report/page.py": "reads the package's own style",
    "plugins/lab/guidegraph_lab/report/pictures.py": "a path that resolve_inside has checked",
    "plugins/lab/guidegraph_lab/sweep/contact_sheet.py": "pictures that the sweep has written",
    "plugins/lab/guidegraph_lab/sweep/ray_worker.py": "files that the cell has just written",
    "plugins/lab/guidegraph_lab/sweep/sweep_folder.py": "reads /proc",
    "nodes/checkpoints/filling.py": "reads /proc",
    "plugins/scenes/guidegraph_scenes/scene_eval_everyday.py": "checks the kind and the size itself",
    "plugins/builtin.py": "reads the package's own modules",
    "runtime/guidegraph_runtime/bundle/folder.py": "the bundle's door: opened beneath its folder",
    "runtime/guidegraph_runtime/command.py": "opens the null device",
    "runtime/guidegraph_runtime/files/atomic_write.py": "reads /proc, and flushes files that it has just written",
    "runtime/guidegraph_runtime/files/locks.py": "opens its lock for writing",
    "runtime/guidegraph_runtime/files/npy.py": "a member of an archive that is open",
    "runtime/guidegraph_runtime/files/regular_files.py": "the door itself",
    "runtime/guidegraph_runtime/machine/memory.py": "reads /proc and /sys",
    "runtime/guidegraph_runtime/machine/optional_packages.py": "metadata of an installed distribution",
    "runtime/guidegraph_runtime/pictures/picture_files.py": "a stream that is open",
    "runtime/guidegraph_runtime/running/measure_costs.py": "reads /proc",
    "plugins/serve/guidegraph_serve/uploads.py": "bytes that check_picture has bounded",
    "runtime/guidegraph_runtime/sessions/graph_file.py": "opened with flags of its own, and checked by its descriptor",
    "plugins/browser/guidegraph_browser/write_page.py": "files of the page, and those it has just written",
}
OTHER_OPENS = ("request", "WorkflowFolder", "webbrowser", "webbrowser.open")
"""Owners of an ``open`` that opens no file."""


def find_opens(tree: ast.AST) -> Iterator[int]:
    """The lines that open a file without the door."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        if isinstance(function, ast.Name):
            if function.id == "open" and not (len(call.args) > 1 and "w" in ast.unparse(call.args[1])):
                yield call.lineno
        elif isinstance(function, ast.Attribute):
            owner = ast.unparse(function.value).rpartition(".")[2]
            is_json = owner in ("json", "jsonlib") and function.attr == "load"
            is_open = function.attr == "open" and owner not in OTHER_OPENS
            if is_json or is_open or (function.attr in ("read_text", "read_bytes") and owner != "files"):
                yield call.lineno


def product_files() -> list[Path]:
    folders = ("guidegraph", "graph", "nodes", "plugins", "runtime/guidegraph_runtime")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if not {"gallery", "testing", "tests", "template"} & set(path.parts)]


def test_files_are_opened_by_the_door() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): [*lines]
        for path in product_files()
        if (lines := [*find_opens(ast.parse(path.read_text()))])
    }
    message = "use open_regular, read_regular or read_json, or add a reason to ALLOWED"
    assert {file: lines for file, lines in found.items() if file not in ALLOWED} == {}, message
    assert sorted(set(ALLOWED) - set(found)) == []


def test_an_open_without_the_door_is_found() -> None:
    texts = ("open(p)", "open(p, 'rb')", "p.read_text()", "p.open()", "Image.open(p)", "json.load(f)", "os.open(p, 0)")
    assert [[*find_opens(ast.parse(text))] for text in texts] == [[1]] * len(texts)
    assert [*find_opens(ast.parse("open(p, 'w'); read_regular(p); request.open()"))] == []

"""Every workflow in tests/broken is refused, with exactly the expected problems at the expected positions.

The first lines of a file list the expected problems, one per line: ``# expect: LINE:COLUMN code | message | path``.
``message`` is a fragment of the problem's message. A position in another file starts with that file's name.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import default_registry
from tests.graph import toys
from tests.paths import ROOT

FOLDER = ROOT / "tests" / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))

EXPECT = re.compile(
    r"# expect: (?:(?P<file>[\w/.]+):)?(?P<line>\d+):(?P<column>\d+) (?P<code>[\w-]+) \| (?P<message>.*)"
)


@dataclass(frozen=True)
class Expected:
    file: str
    line: int
    column: int
    code: str
    message: str
    path: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.code}: …{self.message}… [{self.path}]"

    def matches(self, problem: Problem) -> bool:
        mark = problem.mark
        actual = (Path(mark.file).name, mark.line, mark.column, problem.code, problem.path)
        expected = (Path(self.file).name, self.line, self.column, self.code, self.path)
        return actual == expected and self.message in problem.message


def read_expected(file: Path) -> list[Expected]:
    expected = []
    for line in file.read_text().splitlines():
        if match := EXPECT.fullmatch(line):
            message, _, path = match["message"].rpartition(" |")
            file_name = match["file"] or file.name
            expected.append(
                Expected(
                    file_name, int(match["line"]), int(match["column"]), match["code"], message.strip(), path.strip()
                )
            )
    return expected


@cache
def registry(file: Path) -> Registry:
    """The built-in nodes, or the toys where a file asks for them; the plugin ``sag`` failed to load."""
    if "# registry: toys" in file.read_text().splitlines():
        return toys.REGISTRY
    return replace(default_registry(entry_points=False), failed=toys.REGISTRY.failed)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_broken_workflow_is_refused_at_the_right_position(file: Path) -> None:
    expected = read_expected(file)
    assert expected, "the file lists no expected problems"
    with pytest.raises(WorkflowError) as caught:
        build(file, registry(file))
    problems = caught.value.problems
    listing = "\n".join(map(str, problems))
    assert len(problems) == len(expected), f"found:\n{listing}"
    for expectation in expected:
        assert any(expectation.matches(problem) for problem in problems), f"no {expectation} in:\n{listing}"
    assert problems == sorted(problems, key=lambda p: p.mark)


def test_there_are_at_least_forty_broken_workflows() -> None:
    assert len(FILES) >= 40


def test_the_sub_workflow_of_the_broken_workflows_is_valid() -> None:
    graph = build(FOLDER / "blocks" / "predict.yaml", default_registry(entry_points=False))
    assert set(graph.outputs) == {"prediction", "preview"}


def test_validate_exits_with_2_and_prints_no_traceback() -> None:
    files = [f for f in FILES if registry(f) is not toys.REGISTRY and f.stem != "node_of_failed_plugin"]
    command = [sys.executable, "-m", "guidegraph", "validate", *(str(f.relative_to(FOLDER)) for f in files)]
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stdout + result.stderr
    printed = result.stdout + result.stderr
    for file in files:
        for problem in read_expected(file):
            assert f"{problem.file}:{problem.line}:{problem.column}: {problem.code}: " in printed, problem


@pytest.mark.parametrize("name", ["several_at_once", "block_wrong_inside", "tab"])
def test_a_broken_workflow_runs_nothing_and_writes_nothing(name: str, tmp_path: Path) -> None:
    file = FOLDER / f"{name}.yaml"
    command = [sys.executable, "-m", "guidegraph", "run", str(file), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stdout + result.stderr
    assert [f"{w.line}:{w.column}: {w.code}: " in result.stderr for w in read_expected(file)].count(False) == 0
    assert list(tmp_path.iterdir()) == []

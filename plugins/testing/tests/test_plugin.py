"""The pytest plugin, as the author of a guidegraph plugin uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from guidegraph_testing import CHECKS, Inapplicable, NodeCase, cases_of, run_check
from plugins.testing.tests import wrong_nodes
from tests.commands.command import ROOT, environment

pytest_plugins = ["pytester"]

NAME = "guidegraph_testing.plugin"
QUICK = [name for name in CHECKS if name != "ONNX export"]

PLUGIN = '''
import torch
from guidegraph import Prediction, Sample, Scale, hookimpl, node


@node("mine.guide")
def guide(cond: Prediction, uncond: Prediction, *, scale: Scale = 4.0) -> Prediction:
    """Guidance; scale: of the difference."""
    return uncond + scale * (cond - uncond)


@node("mine.normal")
def normal(x: Sample) -> Sample:
    """A sample divided by the deviation of its batch."""
    return x / x.std()


@hookimpl
def guidegraph_nodes():
    return [guide, normal]
'''
TESTS = """
import pytest
import guidegraph_mine
from guidegraph_testing import CHECKS, NodeCase, conformance_cases

QUICK = [name for name in CHECKS if name != "ONNX export"]


@pytest.mark.parametrize("check", conformance_cases(guidegraph_mine, checks=QUICK))
def test_conforms(check):
    check()


@pytest.mark.parametrize(
    "check",
    conformance_cases(
        guidegraph_mine,
        NodeCase(guidegraph_mine.normal, skip={"batch invariance": "mixes samples by design"}),
        checks=["batch invariance"],
    ),
)
def test_with_an_exception(check):
    check()


def test_one_node(conformance):
    skipped = conformance(guidegraph_mine.guide, settings={"scale": 2.0}, skip={"ONNX export": "elsewhere"})
    assert "needs" in skipped
"""


@pytest.fixture(scope="module", autouse=True)
def run_checks_once() -> None:
    """Run the checks before pytester does, which removes its imports again; torch cannot be imported twice."""
    for name in QUICK:
        with suppress(Inapplicable):
            run_check(NodeCase(wrong_nodes.good), name)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """The folder of a plugin."""
    pytester.makeini("[pytest]")
    pytester.makepyfile(guidegraph_mine=PLUGIN)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    installed = any(entry.value == NAME for entry in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", NAME)
    return project.runpytest_inprocess(*plugin, "-p", "no:cacheprovider", "-rs", "-v", *arguments)


def test_the_entry_point_has_the_name_of_its_module() -> None:
    """With another name, `-p guidegraph_testing.plugin` would register the plugin twice, which pytest refuses."""
    project = tomllib.loads((ROOT / "plugins" / "testing" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {NAME: NAME}


def test_a_plugin_without_tests_is_checked_node_by_node(project: pytest.Pytester) -> None:
    project.makepyfile(test_other="def test_not_run(): raise AssertionError")
    result = run(project, "--guidegraph-plugin", "guidegraph_mine", "-k", "not ONNX")
    result.assert_outcomes(passed=19, failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "guidegraph: not checked, mine.guide: waits (no device counts them (pytest --guidegraph-plugin … --device "
            "sim does)); identity (it declares no identity); needs (it declares no needs); "
            "previews (its plugin has no hook guidegraph_preview)",
            "guidegraph_mine::mine.guide-batch-invariance PASSED*",
            "guidegraph_mine::mine.normal-batch-invariance FAILED*",
            "*mine.normal: batch invariance*",
            "mine.normal: expected sample 0 alone to be sample 0 in a batch of 2",
            "  found: output 'out' differs by *",
            "  to do: compute norms*",
        ]
    )
    result.stdout.no_fnmatch_line("*test_not_run*")
    result.stdout.no_fnmatch_line("*Error*")


@pytest.mark.slow
def test_the_nodes_are_checked_beside_named_tests(project: pytest.Pytester) -> None:
    path = project.makepyfile(test_other="def test_run(): pass")
    result = run(project, "--guidegraph-plugin", "guidegraph_mine.py", "-k", "docs or test_run", str(path))
    result.assert_outcomes(passed=3, deselected=20)


def test_a_test_of_three_lines_checks_all_nodes(project: pytest.Pytester) -> None:
    project.makepyfile(test_mine=TESTS)
    result = run(project)
    result.stdout.fnmatch_lines(
        [
            "test_mine.py::test_conforms[[]mine.guide-types[]] PASSED*",
            "test_mine.py::test_conforms[[]mine.normal-batch-invariance[]] FAILED*",
            "test_mine.py::test_with_an_exception[[]mine.guide-batch-invariance[]] PASSED*",
            "test_mine.py::test_one_node PASSED*",
        ]
    )
    result.stdout.no_fnmatch_line("*test_with_an_exception*normal*")
    result.assert_outcomes(passed=21, failed=1)


def test_a_plugin_that_cannot_be_used_is_named(project: pytest.Pytester) -> None:
    result = run(project, "--guidegraph-plugin", "guidegraph_absent")
    result.stderr.fnmatch_lines(["ERROR: --guidegraph-plugin guidegraph_absent: ModuleNotFoundError*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    project.makepyfile(guidegraph_empty="")
    result = run(project, "--guidegraph-plugin", "guidegraph_empty")
    result.stderr.fnmatch_lines(["*PluginError: implements no hook of guidegraph*"])


def test_a_case_of_another_plugin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is a case for wrong\.dtype, which the plugin does not give"):
        cases_of(wrong_nodes, [NodeCase(wrong_nodes.wrong_dtype)])


def test_torch_is_not_imported_before_a_test_needs_it(tmp_path: Path) -> None:
    (tmp_path / "guidegraph_light.py").write_text(PLUGIN.replace("import torch\n", ""), encoding="utf-8")
    code = (
        "import sys, guidegraph_light; import guidegraph_testing.plugin; from guidegraph_testing import cases_of; "
        "cases_of(guidegraph_light); print(sorted({'torch', 'numpy', 'pydantic', 'networkx'} & set(sys.modules)))"
    )
    path = f"{environment()['PYTHONPATH']}{os.pathsep}{tmp_path}"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(PYTHONPATH=path), capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr

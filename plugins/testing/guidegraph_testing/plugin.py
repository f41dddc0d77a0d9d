"""The pytest plugin: the fixture ``conformance``, and ``--guidegraph-plugin MODULE`` for plugins without tests.

With ``--device sim`` the checks have a simulated CUDA device. The option exists only beside ``--guidegraph-plugin``:
many projects have an option ``--device`` of their own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidegraph_testing import simulated_cuda
from guidegraph_testing.applicable import why_inapplicable
from guidegraph_testing.case import Nonconforming
from guidegraph_testing.catalogue import CHECKS
from guidegraph_testing.collect import Check, cases_of, conforms


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("guidegraph").addoption(
        "--guidegraph-plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="check every node of a plugin of guidegraph, a module or a Python file; no other tests but those named",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Load the simulated device, before a file of tests imports torch."""
    if not early_config.known_args_namespace.guidegraph_plugin:
        return
    group = parser.getgroup("guidegraph")
    group.addoption("--device", choices=["sim"], help="check the nodes on a simulated CUDA device too (needs g++)")
    if parser.parse_known_args(args).device is None:
        return
    if reason := simulated_cuda.find_reason():
        raise pytest.UsageError(f"--device sim: {reason}, and the device is compiled for this version of torch")
    if "torch" in sys.modules:
        raise pytest.UsageError("--device sim: another plugin of pytest imports torch: leave it out, with -p no:PLUGIN")
    try:
        simulated_cuda.load()
    except (subprocess.CalledProcessError, OSError) as error:
        raise pytest.UsageError(f"--device sim: it cannot be compiled for this version of torch: {error}") from error
    if not simulated_cuda.is_loaded():
        raise pytest.UsageError(
            "--device sim: this torch is built with CUDA, and the device is for a build without: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu in another environment; "
            "with a GPU, leave the option out"
        )


@pytest.fixture
def conformance(record_property: Callable[[str, object], None]) -> Callable[..., dict[str, str]]:
    """``conformance(node, inputs={…}, settings={…})`` runs all checks of a node, as ``guidegraph_testing.conforms``."""

    def check(node: Any, /, **options: Any) -> dict[str, str]:
        __tracebackhide__ = True
        skipped = conforms(node, **options)
        for name, reason in skipped.items():
            record_property(f"skipped {name}", reason)
            print(f"{name}: skipped, {reason}")  # noqa: T201  pytest shows it with -rA or -s
        return skipped

    return check


class ConformanceItem(pytest.Item):
    """One check of one node."""

    check: Check

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Nonconforming):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        code = self.check.case.node.__code__
        return Path(code.co_filename), code.co_firstlineno - 1, f"{self.check.case.id}: {self.check.name}"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """With the option and without paths, only the plugin's nodes are tested."""
    has_paths = config.args_source is pytest.Config.ArgsSource.ARGS
    return True if config.getoption("--guidegraph-plugin") and not has_paths else None


_LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()
"""For each node, the checks that do not apply and are not collected, with the reasons."""


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Report the number of checks that do not apply; with -v, which ones and why."""
    left_out = config.stash.get(_LEFT_OUT, {})
    count = sum(map(len, left_out.values()))
    if not count:
        return []
    if config.get_verbosity() < 1:
        checks = "1 check does not apply and is" if count == 1 else f"{count} checks do not apply and are"
        return [f"guidegraph: {checks} left out; -v shows why"]
    return [f"guidegraph: not checked, {node}: {'; '.join(checks)}" for node, checks in left_out.items() if checks]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in config.getoption("--guidegraph-plugin"):
        try:
            cases = cases_of(name)
        except Exception as error:
            raise pytest.UsageError(f"--guidegraph-plugin {name}: {type(error).__name__}: {error}") from error
        left_out = config.stash.setdefault(_LEFT_OUT, {})
        for case in cases:
            reasons = {check_name: why_inapplicable(case, check_name) for check_name in CHECKS}
            left_out[case.id] = [f"{check_name} ({reason})" for check_name, reason in reasons.items() if reason]
            for check_name in (check_name for check_name, reason in reasons.items() if reason is None):
                check = Check(case, check_name)
                item = ConformanceItem.from_parent(session, name=check.id, nodeid=f"{name}::{check.id}")
                item.check = check
                items.append(item)

"""Commands in packages of their own: without a package the help leaves them out, and an error says what to install."""

from __future__ import annotations

import re

import pytest

from guidegraph.commands import load_commands
from guidegraph.commands.shared.root import app
from guidegraph.plugins import entry_points
from guidegraph.plugins.entry_points import GROUP, NAMESPACES_GROUP
from guidegraph_runtime.machine.optional_packages import NEEDED, package_command
from tests.commands.command import Command
from tests.paths import ROOT

MOVED = ("open", "report", "sweep")


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the packages in plugins/ is installed."""
    monkeypatch.setattr(entry_points, "_remembered", {GROUP: [], NAMESPACES_GROUP: []})
    built_in = [command for command in load_commands().registered_commands if command.callback.__name__ not in MOVED]
    monkeypatch.setattr(app, "registered_commands", built_in)


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize(("command", "package"), [("open", "page"), ("sweep", "lab"), ("report", "lab")])
def test_a_command_of_a_missing_package_names_it(cli: Command, command: str, package: str) -> None:
    result = cli(command, "draw.yaml")
    assert result.code == 2
    assert f"'guidegraph {command}' is in the package guidegraph-{package}: {package_command(package)}" in result.err


@pytest.mark.usefixtures("no_packages")
def test_the_help_names_no_command_of_a_missing_package(cli: Command) -> None:
    text = cli("--help").out
    assert "\n  run " in text
    assert all(f"\n  {command} " not in text for command in MOVED)


def test_the_help_names_the_commands_of_installed_packages(cli: Command) -> None:
    text = cli("--help").out
    assert all(f"\n  {command} " in text for command in ("run", *MOVED))


def test_the_command_for_a_package_names_those_that_it_needs() -> None:
    for package, needed in NEEDED.items():
        text = (ROOT / "plugins" / package / "pyproject.toml").read_text(encoding="utf-8")
        required = set(re.findall(r'"guidegraph-(\w+)==', text)) - {"runtime"}
        assert required == {*needed}
        assert [*re.findall(r"plugins/(\w+)", package_command(package))] == [*needed, package]

"""``guidegraph open`` says what is wrong before it serves anything."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest

from guidegraph_runtime.machine.optional_packages import install_command
from plugins.page.tests.conftest import DRAW
from tests.commands.command import Command
from tests.commands.conftest import cli as cli


@pytest.fixture
def extra() -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")


def test_without_the_extra_it_says_what_to_install(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def find_others(name: str, package: str | None = None) -> Any:
        return None if name == "uvicorn" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    cli.workflow("draw.yaml", DRAW)
    result = cli("open", "draw.yaml", "--no-browser")
    assert result.code == 1
    assert "missing-extra" in result.err
    assert install_command("ui") in result.err
    assert result.out == ""


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.yaml", "no-file: there is no file or folder 'nothing.yaml'"),
        ("picture.png", "not-a-workflow: expected a workflow (.yaml) or a folder of them; found 'picture.png'"),
    ],
)
def test_anything_but_a_workflow_or_a_folder_is_refused(cli: Command, name: str, message: str) -> None:
    (cli.folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = cli("open", name, "--no-browser")
    assert (result.code, result.out) == (1, "")
    assert message in result.err


@pytest.mark.usefixtures("extra")
def test_a_port_in_use_is_named(cli: Command) -> None:
    cli.workflow("draw.yaml", DRAW)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli("open", "draw.yaml", "--no-browser", "--port", str(port))
    assert result.code == 1
    assert f"port-busy: port {port} of 127.0.0.1" in result.err

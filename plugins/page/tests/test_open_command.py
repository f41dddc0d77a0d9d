"""``guidegraph open`` says what is wrong before it serves anything."""

from __future__ import annotations

import socket

import pytest

from plugins.page.tests.conftest import DRAW
from tests.commands.command import Command
from tests.commands.conftest import cli as cli


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


def test_a_port_in_use_is_named(cli: Command) -> None:
    cli.workflow("draw.yaml", DRAW)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli("open", "draw.yaml", "--no-browser", "--port", str(port))
    assert result.code == 1
    assert f"port-busy: port {port} of 127.0.0.1" in result.err

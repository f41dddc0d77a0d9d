"""The command guidegraph-serve: its arguments, and a server in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from guidegraph_runtime import Bundle, pixels
from guidegraph_runtime.machine.memory import parse_size
from guidegraph_serve.command import main
from guidegraph_serve.jobs import ServeOptions
from tests.paths import ROOT

TIMEOUT = 60.0
START = "from guidegraph_serve.command import process; process()"


@dataclass
class Server:
    """A server in a process, its address, and the events of its log that were read."""

    process: subprocess.Popen[str]
    address: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    lines: Queue[str] = field(default_factory=Queue)

    def read_lines(self) -> None:
        """Read the log as it is printed, so that the pipe never fills up."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def read_event(self, name: str) -> dict[str, Any]:
        """Read the log up to an event."""
        while line := self.lines.get(timeout=TIMEOUT):
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        pytest.fail(f"the log ended before the event '{name}'")


@contextmanager
def serve(*arguments: str | Path, start: str = START, seconds: float = TIMEOUT, **environment: str) -> Iterator[Server]:
    """Run a server. start: the code that starts it. seconds: after which it is killed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", start, "--port", "0", "--provider", "cpu", "--threads", "1", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    watch = threading.Timer(seconds, process.kill)  # so that a server that hangs fails the test
    watch.start()
    server = Server(process)
    reader = threading.Thread(target=server.read_lines)
    reader.start()
    try:
        server.address = server.read_event("ready")["address"]
        yield server
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def start_job(server: Server, **params: Any) -> str:
    answer = httpx.post(f"{server.address}/v1/workflows/pictures", json={"params": params, "wait": False})
    return str(answer.json()["id"])


HEARS_HANG_UP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
"""Under nohup the tests ignore SIGHUP, and so would the processes that they start."""


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP], [signal.SIGTERM, signal.SIGHUP]])
def test_a_server_draws_and_drains_on_signals(pictures: Path, alone: Bundle, numbers: list[int]) -> None:
    with serve(pictures, "--max-steps", "100000", "--limit", "steps=100000", start=HEARS_HANG_UP + START) as server:
        assert httpx.get(f"{server.address}/health/ready").status_code == 200
        body = {"seed": 4, "steps": 6, "n": 1}
        answer = httpx.post(f"{server.address}/v1/images/generations", json=body, timeout=TIMEOUT)
        picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
        expected = pixels(alone.run(seed=4, steps=6, batch=1)["image"][0])
        assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 2

        key = [start_job(server, steps=1000, batch=8) for _ in range(3)][-1]  # one after the other
        answers: list[dict[str, Any]] = []

        def wait() -> None:
            with httpx.stream("GET", f"{server.address}/v1/jobs/{key}/events", timeout=TIMEOUT) as events:
                answers.append(json.loads([*events.iter_lines()][-2].removeprefix("data: ")))

        waiting = threading.Thread(target=wait)
        waiting.start()
        for number in numbers:
            server.process.send_signal(number)
        server.read_event("draining")
        refused = httpx.post(f"{server.address}/v1/workflows/pictures", json={})
        assert (refused.status_code, httpx.get(f"{server.address}/health/ready").status_code) == (503, 503)
        waiting.join()
        assert answers[0]["status"] == "done"
        assert server.read_event("stopped")["code"] == 0
        assert server.process.wait(TIMEOUT) == 0


def test_a_server_under_nohup_goes_on_after_sighup(pictures: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup sets it, and processes inherit it
    try:
        with serve(pictures) as server:
            server.process.send_signal(signal.SIGHUP)
            key = start_job(server, steps=2)
            with httpx.stream("GET", f"{server.address}/v1/jobs/{key}/events", timeout=TIMEOUT) as events:
                assert '"status": "done"' in [*events.iter_lines()][-2]
            assert httpx.get(f"{server.address}/health/ready").status_code == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_the_jobs(pictures: Path) -> None:
    with serve(pictures, "--max-steps", "100000") as server:
        for _ in range(4):
            start_job(server, steps=1000, batch=8)
        server.process.send_signal(signal.SIGTERM)
        server.read_event("draining")
        server.process.send_signal(signal.SIGTERM)
        while server.read_event("job_ended")["status"] != "cancelled":
            pass
        assert server.process.wait(TIMEOUT) == 130


def test_a_server_that_was_killed_starts_again_at_its_port_without_its_jobs(pictures: Path) -> None:
    with serve(pictures, "--max-steps", "100000") as server:
        keys = [start_job(server, steps=1000, batch=8) for _ in range(3)]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(TIMEOUT)
        port = server.address.rpartition(":")[2]
    with serve(pictures, "--port", port) as server:
        assert httpx.get(f"{server.address}/health/ready").status_code == 200
        assert [httpx.get(f"{server.address}/v1/jobs/{key}").status_code for key in keys] == [404] * 3
        assert httpx.post(f"{server.address}/v1/workflows/pictures", json={}, timeout=TIMEOUT).status_code == 200


def test_a_client_that_goes_away_ends_its_job(pictures: Path) -> None:
    with serve(pictures, "--max-steps", "100000") as server:
        host, port = server.address.removeprefix("http://").split(":")
        body = json.dumps({"steps": 1000, "n": 8}).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            server.read_event("job_accepted")
        ended = server.read_event("job_ended")
        assert (ended["status"], ended["code"]) == ("cancelled", "cancelled")


def test_a_job_ends_with_the_reader_of_its_events_if_that_is_asked_for(pictures: Path) -> None:
    with serve(pictures, "--max-steps", "100000") as server:
        left, owned = (start_job(server, steps=1000, batch=8) for _ in range(2))
        for key, query in ((left, ""), (owned, "?cancel=true")):
            with httpx.stream("GET", f"{server.address}/v1/jobs/{key}/events{query}", timeout=TIMEOUT) as events:
                next(events.iter_lines())
        while (ended := server.read_event("job_ended"))["id"] != owned:
            pass
        assert (ended["status"], ended["code"]) == ("cancelled", "cancelled")
        assert httpx.get(f"{server.address}/v1/jobs/{left}").json()["status"] in ("queued", "running", "done")


def test_the_token_comes_from_the_environment(pictures: Path) -> None:
    with serve(pictures, GUIDEGRAPH_TOKEN="secret") as server:
        assert httpx.get(f"{server.address}/v1/models").status_code == 401
        headers = {"authorization": "Bearer secret"}
        assert httpx.get(f"{server.address}/v1/models", headers=headers).json()["data"][0]["id"] == "pictures"


@pytest.mark.parametrize("token", ["", " ", "süß"])
def test_a_wrong_token_of_the_environment_is_named(
    token: str, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDEGRAPH_TOKEN", token)
    with pytest.raises(SystemExit) as ended:
        main([str(pictures)])
    assert ended.value.code == 2
    assert "GUIDEGRAPH_TOKEN: bad-token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{pictures}", "--host", "0.0.0.0"], "--host: needs-token: other machines reach '0.0.0.0'"),
        (["{pictures}", "{pictures}"], "two bundles have the name 'pictures': write NAME=FOLDER"),
        (["{pictures}", "--token", " "], "--token: bad-token"),
        (["{pictures}", "--memory", "1KB"], "raise it"),
        (["{pictures}", "--allow-origin", "https://a.org/"], "expected a site without a path, such as https://a.org"),
        (["{pictures}", "--allow-origin", "*"], "expected a site without a path"),
        (["nothing"], "expected the folder of a bundle, found none"),
        (["a/b={pictures}"], "bad-name"),
        (["{pictures}", "--limit", "steps"], "is not NAME=VALUE"),
    ],
)
def test_wrong_arguments_are_named(
    pictures: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GUIDEGRAPH_TOKEN", raising=False)
    with pytest.raises(SystemExit) as ended:
        main([argument.format(pictures=pictures) for argument in arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_documented_defaults_are_those_of_the_server() -> None:
    table = re.findall(r"^\| `(--[a-z-]+)[^|]*\| ([^|]*) \|", (ROOT / "docs" / "do" / "serving.md").read_text(), re.M)
    documented = {name: None if text == "none" else parse_size(text) for name, text in table if text.strip()}
    defaults = ServeOptions()
    assert documented == {
        "--batch": defaults.batch,
        "--queue": defaults.queue,
        "--max-steps": defaults.steps,
        "--max-seconds": defaults.seconds,
        "--max-body": defaults.body_bytes,
        "--max-upload": defaults.upload_bytes,
        "--max-pixels": defaults.pixels,
        "--run-memory": defaults.run_memory,
        "--memory": defaults.bundle_memory,
    }


def test_a_port_that_is_in_use_is_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main([str(pictures), "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2
    assert "port-busy: 127.0.0.1, port" in capsys.readouterr().err


def test_options_may_be_variables_of_the_environment(pictures: Path, tmp_path: Path) -> None:
    variables = {"BUNDLES": f"pictures={pictures}", "MAX_STEPS": "3", "LOG_LEVEL": "debug", "BATCH": "2"}
    variables |= {"PORT": "tcp://10.0.0.1:80", "PORT_80_TCP_ADDR": "10.0.0.1", "METRICS_SERVICE_PORT_HTTP": "80"}
    with serve("--batch", "1", **{f"GUIDEGRAPH_SERVE_{name}": text for name, text in variables.items()}) as server:
        for body, words in (
            ({"steps": 4, "n": 1}, "this server allows 3"),
            ({"steps": 2, "n": 2}, "this server allows 1"),
        ):
            answer = httpx.post(f"{server.address}/v1/images/generations", json=body)
            assert words in answer.json()["error"]["message"], "an argument goes before a variable"
        assert server.read_event("request_refused")["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("BATCH", "many", "GUIDEGRAPH_SERVE_BATCH: expected a number"),
        ("PROVIDER", "abacus", "GUIDEGRAPH_SERVE_PROVIDER: invalid choice: 'abacus'"),
        ("ALLOW_ORIGIN", "https://a.org *", "GUIDEGRAPH_SERVE_ALLOW_ORIGIN: expected a site without a path"),
        ("MAX_STEP", "3", "GUIDEGRAPH_SERVE_MAX_STEP: no option has this variable; did you mean 'GUIDEGRAPH_SERVE_MAX"),
        ("TOKEN", "secret", "GUIDEGRAPH_SERVE_TOKEN: the variable of the token is GUIDEGRAPH_TOKEN"),
        ("BUNDLES", "", "expected the folder of a bundle, as an argument or in GUIDEGRAPH_SERVE_BUNDLES"),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"GUIDEGRAPH_SERVE_{name}", text)
    with pytest.raises(SystemExit) as ended:
        main(["bundle"] if name != "BUNDLES" else [])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err

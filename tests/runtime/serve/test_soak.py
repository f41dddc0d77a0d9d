"""Many requests of all kinds at once: the server stays as it is, and loses none."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runtime.serve.test_command import TIMEOUT, Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").exists(), reason="counts threads in /proc")]

REQUESTS = 200
CLIENTS = 12


def count_threads_and_files(server: Server) -> tuple[int, int]:
    root = Path(f"/proc/{server.process.pid}")
    return len(os.listdir(root / "task")), len(os.listdir(root / "fd"))


def make_body(chance: random.Random) -> dict[str, Any]:
    return {
        "model": "pictures",
        "n": chance.randint(1, 3),
        "seed": chance.randint(0, 99),
        "steps": chance.randint(1, 30),
        "nodes": {"scheduler.use": chance.choice(["scheduler.ddim", "scheduler.ddpm", "scheduler.heun"])},
    }


def draw(client: httpx.Client, chance: random.Random) -> str:
    answer = client.post("/v1/images/generations", json=make_body(chance))
    assert answer.status_code in (200, 429), answer.text
    return "drawn" if answer.status_code == 200 else "refused"


def cancel(client: httpx.Client, chance: random.Random) -> str:
    body = {"params": {"steps": 30}, "wait": False}
    answer = client.post("/v1/workflows/pictures", json=body)
    if answer.status_code == 429:
        return "refused"
    key = answer.json()["id"]
    assert client.delete(f"/v1/jobs/{key}").json()["status"] in ("cancelled", "done")
    return "cancelled"


def send_nonsense(client: httpx.Client, chance: random.Random) -> str:
    body = chance.choice([b"", b"{", b"[]", b'{"model": "pictures", "steps": -1}', b"\xff" * 100])
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/images/generations", content=body, headers=headers)
    assert answer.status_code in (400, 429), (body, answer.text)
    return "nonsense"


def go_away(client: httpx.Client, chance: random.Random) -> str:
    body = json.dumps(make_body(chance)).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    message = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), TIMEOUT) as connection:
        connection.sendall(message[: chance.randint(1, len(message))])
    return "gone"


def watch(client: httpx.Client, chance: random.Random) -> str:
    body = {"params": {"steps": 5}, "wait": False}
    answer = client.post("/v1/workflows/pictures", json=body)
    if answer.status_code == 429:
        return "refused"
    with client.stream("GET", f"/v1/jobs/{answer.json()['id']}/events") as events:
        if chance.random() < 0.5:
            return "gone"
        assert "event: end" in [*events.iter_lines()]
    return "watched"


def send_all(client: httpx.Client, count: int, seed: int) -> list[str]:
    actions = [draw, draw, cancel, send_nonsense, go_away, watch]

    def act(i: int) -> str:
        return actions[i % len(actions)](client, random.Random(seed * REQUESTS + i))

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [*pool.map(act, range(count))]


def test_requests_of_all_kinds_leave_no_threads_and_files(pictures: Path) -> None:
    with serve(pictures, "--queue", "8") as server, httpx.Client(base_url=server.address, timeout=TIMEOUT) as client:
        send_all(client, REQUESTS // 2, 1)  # until all threads of pools are there
        before = count_threads_and_files(server)
        results = send_all(client, REQUESTS, 2)
        assert {"drawn", "cancelled", "nonsense", "gone", "watched"} <= {*results}
        threads, files = count_threads_and_files(server)
        assert threads <= before[0] + 4
        assert files <= before[1] + 4
        server.process.send_signal(signal.SIGTERM)
        assert server.read_event("stopped")["code"] == 0
    accepted = {event["id"] for event in server.events if event["event"] == "job_accepted"}
    ended = [event["id"] for event in server.events if event["event"] == "job_ended"]
    assert len(accepted) > REQUESTS / 3
    assert sorted(ended) == sorted(accepted)
    assert [event for event in server.events if event["event"] == "error"] == []

"""Many requests of all kinds at once: the server stays as it is, and loses none.

Longer soaks with these requests (12,000 and 30,000 of them) grow by less than 1 MB in their second half: memory that
malloc keeps for reuse. Python's own blocks are counted here, which a leak of a few objects a request shows at once.
"""

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

from guidegraph_serve.jobs import MAX_KEPT
from plugins.serve.tests.test_command import START, TIMEOUT, Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").exists(), reason="counts threads in /proc")]

REQUESTS = 300
CLIENTS = 12
COUNTING = """
import gc, json, signal, sys
def count(*_):
    gc.collect()
    print(json.dumps({"event": "counted", "blocks": sys.getallocatedblocks()}), flush=True)
signal.signal(signal.SIGUSR1, count)
"""
"""Lets a server print the number of blocks that Python has allocated."""
MAX_BLOCKS = 2000
"""Blocks by which a server may grow: about 1 % of those that it has. A job that is kept has about 50."""
MAX_KILOBYTES = 4096


def count_blocks(server: Server) -> int:
    server.process.send_signal(signal.SIGUSR1)
    return int(server.read_event("counted")["blocks"])


def read_kilobytes(server: Server) -> int:
    """The memory of the server in RAM."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


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


def warm_up(server: Server, client: httpx.Client) -> None:
    """Send requests until all threads of pools are there and as many jobs have ended as the server remembers.

    A busy server refuses more of them, so their number is not known before.
    """
    for seed in range(100, 120):
        send_all(client, REQUESTS, seed)
        count_blocks(server)
        if sum(event["event"] == "job_ended" for event in server.events) >= MAX_KEPT:
            return
    pytest.fail(f"fewer than {MAX_KEPT} of {20 * REQUESTS} requests became jobs that ended")


def test_requests_of_all_kinds_leave_nothing_behind(pictures: Path) -> None:
    with (
        serve(pictures, "--queue", "8", start=COUNTING + START, seconds=10 * TIMEOUT) as server,
        httpx.Client(base_url=server.address, timeout=TIMEOUT) as client,
    ):
        warm_up(server, client)
        threads, files = count_threads_and_files(server)
        blocks, kilobytes = count_blocks(server), read_kilobytes(server)
        results = send_all(client, REQUESTS, 3)
        assert {"drawn", "cancelled", "nonsense", "gone", "watched"} <= {*results}
        threads_after, files_after = count_threads_and_files(server)
        assert threads_after <= threads + 4
        assert files_after <= files + 4
        assert count_blocks(server) <= blocks + MAX_BLOCKS
        assert read_kilobytes(server) <= kilobytes + MAX_KILOBYTES
        server.process.send_signal(signal.SIGTERM)
        assert server.read_event("stopped")["code"] == 0
    accepted = {event["id"] for event in server.events if event["event"] == "job_accepted"}
    ended = [event["id"] for event in server.events if event["event"] == "job_ended"]
    assert len(accepted) > REQUESTS / 3
    assert sorted(ended) == sorted(accepted)
    assert [event for event in server.events if event["event"] == "error"] == []

"""The server as an application of Ray Serve: its arguments, and replicas of which one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("ray.serve")

import ray
from click import ClickException
from ray import serve
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest

from guidegraph_runtime import Bundle, pixels
from guidegraph_serve.jobs import DrawRequest, ServeOptions
from guidegraph_serve.ray_serve import DRAWER, LeastWorkRouter, RayArguments, build, read_arguments
from plugins.serve.tests.test_routes import IMAGES, read_picture

NAME = "drawn"


def test_arguments_are_texts() -> None:
    arguments = read_arguments({"bundles": "a=x,b=y", "replicas": "2", "gpus": "0.5", "provider": "cpu"})
    assert arguments == RayArguments("a=x,b=y", replicas=2, gpus=0.5, provider="cpu")
    assert arguments.folders == {"a": Path("x").absolute(), "b": Path("y").absolute()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected bundles=FOLDER"),
        ({"bundles": "a,b/a"}, "bundles: two bundles have the name 'a': write NAME=FOLDER for one; found 'a,b/a'"),
        ({"bundles": "a/b=c"}, "bundles: expected NAME=FOLDER with a name"),
        ({"bundles": "a", "replica": "2"}, "there is no argument 'replica'; there is: bundles, replicas"),
        ({"bundles": "a", "replicas": "two"}, "replicas: expected a number from 1 to 1000000, found 'two'"),
        ({"bundles": "a", "replicas": 0}, "replicas: expected a number from 1"),
        ({"bundles": "a", "replicas": 3, "max_replicas": 2}, "max_replicas: expected 3 or more, as replicas, found 2"),
        ({"bundles": "a", "cpus": "-1"}, "cpus: expected a number of CPU cores, 0 or more, found '-1'"),
        ({"bundles": "a", "gpus": "nan"}, "gpus: expected a number of GPUs, 0 or more, found 'nan'"),
        ({"bundles": "a", "batch": "0"}, "batch: expected a number from 1"),
        ({"bundles": "a", "queue": "1e3"}, "queue: expected a number from 1"),
        ({"bundles": "a", "max_steps": "-5"}, "max_steps: expected a number from 1"),
        ({"bundles": "a", "max_seconds": "inf"}, "max_seconds: expected seconds above 0, found 'inf'"),
        ({"bundles": "a", "provider": "gpu"}, "provider: expected auto or cpu or cuda"),
        ({"bundles": "a", "threads": "-1"}, "threads: expected a number from 0 to 1024"),
        ({"bundles": "a", "without_token": "maybe"}, "without_token: expected true or false, found 'maybe'"),
        ({"bundles": "a", "folders": "b"}, "there is no argument 'folders'"),
        ({"bundles": "a", "__doc__": "b"}, "there is no argument '__doc__'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ClickException, match=f"^serve run: bad-setting: {message}"):
        build(arguments)


def test_defaults_are_those_of_the_server() -> None:
    assert read_arguments({"bundles": "a"}).options == ServeOptions(queue=256)


def test_without_a_token_it_has_to_be_said(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUIDEGRAPH_TOKEN", raising=False)
    bundles = str(pictures)
    with pytest.raises(ClickException, match=r"needs-token: set GUIDEGRAPH_TOKEN; .* without_token=true"):
        build({"bundles": bundles})
    build({"bundles": bundles, "without_token": "true"})
    monkeypatch.setenv("GUIDEGRAPH_TOKEN", "secret")
    build({"bundles": bundles})


def test_a_folder_without_a_bundle_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ClickException, match=rf"{tmp_path}/bundle.json: bad-file: expected a file, found nothing"):
        build({"bundles": str(tmp_path), "without_token": True})
    assert not ray.is_initialized()


def make_pending(key: str, work: int) -> PendingRequest:
    metadata = RequestMetadata(request_id=key, internal_request_id=key)
    return PendingRequest(args=[DrawRequest("drawn", {}, work=work)], kwargs={}, metadata=metadata)


@dataclass
class FakeReplica:
    """A replica of which the router reads the name alone."""

    replica_id: str


class FakeResult:
    """The events of a request, which end when ``end`` is called."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self.end = lambda: callback(self)


def test_the_router_sends_to_the_replica_with_the_least_open_work() -> None:
    replicas: list[Any] = [FakeReplica("a"), FakeReplica("b")]

    async def route() -> tuple[list[str], str]:
        router = LeastWorkRouter(DeploymentID(DRAWER, NAME), DeploymentHandleSource.REPLICA)
        router.initialize_state()
        pending = [make_pending(str(i), work) for i, work in enumerate([100, 10, 10, 10])]
        chosen = [await router.choose_replicas(replicas, request) for request in pending]
        result = FakeResult()
        router.on_request_routed(pending[0], chosen[0][0][0].replica_id, result)
        result.end()
        last = await router.choose_replicas(replicas, make_pending("4", 10))
        return [ranks[0][0].replica_id for ranks in chosen], last[0][0].replica_id

    assert asyncio.run(route()) == (["a", "b", "b", "b"], "a")


@pytest.fixture
def client(pictures: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments: dict[str, Any] = {"bundles": str(pictures), "replicas": 2, "provider": "cpu", "max_steps": 1000}
        arguments["without_token"] = True
        serve.run(build(arguments), name=NAME)
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_a_replica_that_is_killed_loses_no_accepted_request(client: httpx.Client, alone: Bundle) -> None:
    requests = [{"seed": seed, "steps": 900, "n": 1} for seed in range(12)]

    def draw(request: dict[str, Any]) -> httpx.Response:
        return client.post(IMAGES, json=request)

    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(draw, request) for request in requests]
        (replica, *_) = list_replicas()
        os.kill(replica, signal.SIGKILL)
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * len(requests)
    for request, answer in zip(requests, answers, strict=True):
        image = alone.run(seed=request["seed"], steps=request["steps"], batch=1)["image"][0]
        picture = np.asarray(read_picture(answer.json()["data"][0])).astype(int)
        assert np.abs(picture - pixels(image)).max() <= 2


@pytest.mark.slow
def test_requests_that_arrive_at_once_keep_both_replicas_busy(client: httpx.Client) -> None:
    before = [read_cpu_seconds(replica) for replica in list_replicas()]
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda seed: client.post(IMAGES, json={"seed": seed, "steps": 900}), range(16))]
    assert [answer.status_code for answer in answers] == [200] * 16
    used = [read_cpu_seconds(replica) - start for replica, start in zip(list_replicas(), before, strict=True)]
    assert len(used) == 2
    assert min(used) > 0.35 * sum(used)


def read_cpu_seconds(process: int) -> float:
    """The CPU seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def list_replicas() -> list[int]:
    """The processes of the replicas that draw."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended
            if f"ServeReplica:{NAME}:{DRAWER}".encode() in path.read_bytes():
                numbers.append(int(path.parent.name))
    return sorted(numbers)

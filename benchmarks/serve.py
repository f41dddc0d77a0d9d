"""Measure guidegraph-serve: throughput, waiting times and overload, with requests that have nothing in common.

    guidegraph export workflows/text_to_image.yaml -o scenes
    python benchmarks/serve.py scenes [--requests 64] [--rounds 5] [--batch 8] [--threads 1] [--poisson 120]

The server runs in a process of its own, with --threads for each operator. The requests differ in prompt, seed, scale
(1.5 to 8), steps (5 to 50) and sampler. They are sent one after the other and all at once, by turns, in the same order;
each picture is compared with that of the bundle alone. Then: a request of 5 steps behind one of 200, against the order
of arrival; the time to the first preview; and --poisson requests at random times (Poisson) at 0.5, 0.8 and 1.2 of the
capacity, with a queue of --queue. The capacity is the rate while twice as many requests as share a step are under way.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import io
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _serving import IMAGES, open_bundle, open_client
from PIL import Image

from guidegraph_runtime import Bundle, pixels

SAMPLERS = ("ddim", "dpmpp_2m", "heun")
THINGS = ("cactus", "tiger", "rocket", "penguin", "pumpkin", "elephant", "house", "umbrella")
PLACES = ("on snow", "on grass", "on sand under a day sky", "under a night sky")
LOADS = (0.5, 0.8, 1.2)
MODEL = "measured"


@dataclass(frozen=True)
class Answer:
    """The status of an answer, its seconds, and its picture if it is one."""

    status: int
    seconds: float
    picture: Any = None


def make_requests(count: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "model": MODEL,
            "prompt": f"a {chance.choice(THINGS)} {chance.choice(PLACES)}",
            "seed": chance.randrange(10_000),
            "scale": round(chance.uniform(1.5, 8), 2),
            "steps": chance.randint(5, 50),
            "nodes": {"scheduler.use": f"scheduler.{SAMPLERS[i % len(SAMPLERS)]}"},
        }
        for i in range(count)
    ]


@contextmanager
def serve(bundle: Path, *options: str) -> Iterator[httpx.Client]:
    """A client of a new server, which has drawn a picture."""
    command = [sys.executable, "-c", "from guidegraph_serve.command import process; process()"]
    arguments = [f"{MODEL}={bundle}", "--port", "0", "--provider", "cpu", *options]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    log = process.stdout
    address = json.loads(log.readline())["address"]
    threading.Thread(target=lambda: [None for _ in log], daemon=True).start()  # so that the pipe never fills up
    try:
        with open_client(address) as client:
            send(client, {"model": MODEL, "steps": 5})
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def send(client: httpx.Client, body: dict[str, Any]) -> Answer:
    started = time.perf_counter()
    answer = client.post(IMAGES, json=body)
    seconds = time.perf_counter() - started
    if answer.status_code != 200:
        return Answer(answer.status_code, seconds)
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return Answer(answer.status_code, seconds, np.asarray(Image.open(io.BytesIO(data))).astype(int))


def send_at_once(client: httpx.Client, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return [*pool.map(lambda body: send(client, body), bodies)]


def send_at_times(client: httpx.Client, bodies: Sequence[dict[str, Any]], rate: float, seed: int) -> list[Answer]:
    """Send requests at the times of a Poisson process of ``rate`` requests a second."""
    chance = random.Random(seed)
    with ThreadPoolExecutor(len(bodies)) as pool:
        futures = []
        for body in bodies:
            time.sleep(chance.expovariate(rate))
            futures.append(pool.submit(send, client, body))
        return [future.result() for future in futures]


def compare_alone(bundle: Bundle, bodies: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> int:
    """The largest difference of a pixel from the picture of the bundle alone, of 255."""
    largest = 0
    for body, answer in zip(bodies, answers, strict=True):
        params = {name: value for name, value in body.items() if name not in ("model", "nodes")}
        picture = pixels(bundle.run_with(params, nodes=body["nodes"])["image"][0])
        largest = max(largest, int(np.abs(answer.picture - picture).max()))
    return largest


def measure_throughput(client: httpx.Client, bundle: Bundle, count: int, rounds: int) -> None:
    """Print requests per second, one at a time and at once, and the median ratio of the rounds.

    In a round, half of the requests are sent one at a time before all are sent at once, and half after, so that both
    sides meet a machine of the same speed.
    """
    bodies = make_requests(count, seed=1)
    half = count // 2
    print(f"{count} unlike requests, one at a time and at once:")
    ratios: list[float] = []
    for _ in range(rounds):
        seconds = time_one_by_one(client, bodies[:half])
        started = time.perf_counter()
        answers = send_at_once(client, bodies)
        at_once = time.perf_counter() - started
        seconds += time_one_by_one(client, bodies[half:])
        if refused := [answer.status for answer in answers if answer.status != 200]:
            sys.exit(f"{len(refused)} of {count} requests were not drawn: {sorted({*refused})}")
        ratios.append(seconds / at_once)
        print(f"  {count / seconds:.3f}/s and {count / at_once:.3f}/s: {ratios[-1]:.3f} times", flush=True)
    print(f"  median of {rounds} rounds: {statistics.median(ratios):.3f} times")
    largest = compare_alone(bundle, bodies, answers)
    print(f"pictures differ by at most {largest}/255 from those of the bundle alone", flush=True)


def time_one_by_one(client: httpx.Client, bodies: Sequence[dict[str, Any]]) -> float:
    """The seconds for requests, each of which waits for the answer to the one before."""
    started = time.perf_counter()
    for body in bodies:
        send(client, body)
    return time.perf_counter() - started


def measure_capacity(client: httpx.Client, batch: int, count: int) -> float:
    """Print and return the requests per second while twice as many as share a step are under way.

    The clock stops when ``count`` have ended, with as many still under way, so it has no slow end.
    """
    under_way = 2 * batch

    def end(body: dict[str, Any]) -> float:
        if (status := send(client, body).status) != 200:
            sys.exit(f"a request was not drawn: {status}")
        return time.perf_counter()

    started = time.perf_counter()
    with ThreadPoolExecutor(under_way) as pool:
        ends = sorted(pool.map(end, make_requests(count + under_way, seed=4)))
    capacity = count / (ends[count - 1] - started)
    print(f"capacity: {capacity:.3f}/s", flush=True)
    return capacity


def measure_overtaking(client: httpx.Client) -> None:
    """Print the time of a request of 5 steps behind one of 200, as a share of that in order of arrival."""
    long, short = ({"model": MODEL, "prompt": "a tiger on grass", "steps": steps} for steps in (200, 5))
    alone = send(client, long).seconds + send(client, short).seconds
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(send, client, long)
        time.sleep(0.02 * alone)
        waited = send(client, short).seconds
        future.result()
    in_order = 0.98 * alone
    print(f"5 steps behind 200: {waited:.2f} s, in order of arrival {in_order:.2f} s: {waited / in_order:.3f}")


def measure_preview(client: httpx.Client, rounds: int = 5) -> None:
    """Print the time from a request to its first preview."""
    seconds = []
    for seed in range(rounds):
        started = time.perf_counter()
        body = {"params": {"steps": 30, "seed": seed}, "wait": False}
        key = client.post(f"/v1/workflows/{MODEL}", json=body).json()["id"]
        with client.stream("GET", f"/v1/jobs/{key}/events") as events:
            if any(line == "event: preview" for line in events.iter_lines()):
                seconds.append(time.perf_counter() - started)
        client.delete(f"/v1/jobs/{key}")
    print(f"first preview after {statistics.median(seconds):.3f} s" if seconds else "the bundle has no previews")


def measure_load(client: httpx.Client, capacity: float, count: int) -> None:
    for load in LOADS:
        answers = send_at_times(client, make_requests(count, seed=2), load * capacity, seed=3)
        drawn = sorted(answer.seconds for answer in answers if answer.status == 200)
        refused = sum(answer.status == 429 for answer in answers)
        failed = len(answers) - len(drawn) - refused
        times = [f"p{q} {np.percentile(drawn, q):.2f} s" for q in (50, 95, 99)] if drawn else ["no times"]
        counts = f"{len(drawn)} drawn, {refused} refused (429), {failed} failed"
        print(f"load {load}: {counts}; {', '.join(times)}", flush=True)


def describe_machine(threads: int) -> str:
    names = ("guidegraph-runtime", "onnxruntime-gpu", "onnxruntime", "numpy", "starlette", "uvicorn")
    versions = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    packages = [f"{name} {versions[name]}" for name in names if name in versions]
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), "")
    machine = f"{platform.machine()} {model}, {os.cpu_count()} cores"
    return f"{machine}, Python {platform.python_version()}, {', '.join(packages)}; threads: {threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="in which requests are sent one at a time and at once")
    parser.add_argument("--poisson", type=int, default=120, help="requests at each load")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    bundle = open_bundle(parser, options.bundle, options.threads)
    print(describe_machine(options.threads))
    limits = ["--batch", str(options.batch), "--threads", str(options.threads)]
    with serve(options.bundle, *limits, "--queue", str(options.requests + 1)) as client:
        measure_throughput(client, bundle, options.requests, options.rounds)
        measure_overtaking(client)
        measure_preview(client)
        capacity = measure_capacity(client, options.batch, options.requests)
    with serve(options.bundle, *limits, "--queue", str(options.queue)) as client:
        measure_load(client, capacity, options.poisson)


if __name__ == "__main__":
    main()

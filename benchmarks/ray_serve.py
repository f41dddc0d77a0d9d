"""Measure Ray Serve with one replica and with two: requests a second, and the processes that take the CPU.

    pip install ./runtime "./plugins/serve[ray]" httpx psutil
    guidegraph export workflows/text_to_image_128.yaml -o scenes
    python benchmarks/ray_serve.py scenes [--requests 32] [--n 4] [--steps 30] [--rounds 3] [--cores 2] [--limit 0.6]

First the ceiling: two processes that run the bundle alone, with one thread each, one after the other and at once. Then
the same requests to one replica and to two, in turns. Always the same number of requests is under way, twice as many as
two replicas draw at once, and --requests is a multiple of it, so no replica waits for the other at the end.

Each line has the requests a second, the CPU seconds of a request by process, those that Ray takes each second without
requests, which are not counted in the others, and the share of the CPU seconds that each replica has used. "by CPU" is
the rate that they allow on --cores cores if nothing else runs: a replica uses one core, and all processes together no
more than there are. It means something on a busy machine too, where the clock does not; the load average is printed.

Needs Linux. All processes run on --cores cores of this machine, so the client, the front and Ray take CPU from the
replicas. With --limit, which needs root and the cpu controller of cgroups, each replica may use only that share of a
core, and the rest is left to them, as on a machine with more cores. Ray's controller and metrics, which look for
changes ten times a second by default, do so once in one and in five seconds.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from _serving import IMAGES, open_bundle, open_client

os.environ["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] = "1"
os.environ["RAY_SERVE_METRICS_EXPORT_INTERVAL_MS"] = "5000"
import ray
from ray import serve

from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.ray_serve import DRAWER, build

NAME = "measured"
REPLICAS = "replicas"
IDLE_SECONDS = 5.0
PERIOD = 20_000
"""Microseconds in which a replica with a limit uses its share."""
ROLES = {
    f"ServeReplica:{NAME}:{DRAWER}": REPLICAS,
    f"ServeReplica:{NAME}:": "front",
    "ProxyActor": "proxy",
    "ServeController": "controller",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
"""What a process does, by a text of its command line; the first that matches."""
PLAIN = """
import sys, time
from guidegraph_runtime import Bundle, SessionSettings
bundle = Bundle(sys.argv[1], SessionSettings.on("cpu", intra_threads=1))
params = {"steps": int(sys.argv[3]), "batch": int(sys.argv[4])}
params = {name: value for name, value in params.items() if name in bundle.manifest.inputs}
bundle.run_with(params)
print("ready", flush=True)
sys.stdin.readline()
started, cpu = time.perf_counter(), time.process_time()
for seed in range(int(sys.argv[2])):
    bundle.run_with({**params, "seed": seed})
print(time.perf_counter() - started, time.process_time() - cpu, flush=True)
"""
"""Runs a bundle some times, when a line is sent, and prints the seconds by the clock and of CPU time."""


@dataclass(frozen=True)
class Rate:
    """Requests a second by the clock, and the CPU seconds of a request by what the process does.

    idle: CPU seconds of all processes each second without requests. shares: of each replica in their CPU seconds.
    """

    by_clock: float
    cpu: dict[str, float]
    idle: float
    shares: Sequence[float]

    def limit(self, replicas: int, cores: int, share: float) -> float:
        """The requests a second that the CPU seconds allow. share: of a core, that a replica may use."""
        return min(replicas * share / self.cpu[REPLICAS], (cores - self.idle) / sum(self.cpu.values()))


def time_plain(bundle: Path, requests: int, options: argparse.Namespace, at_once: bool) -> tuple[float, float]:
    """The seconds of two processes that run the bundle alone, and their CPU seconds."""
    command = [sys.executable, "-c", PLAIN, str(bundle), str(requests), str(options.steps), str(options.n)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    started = time.perf_counter()
    if at_once:
        for process in processes:
            send_line(process)
    texts = []
    for process in processes:
        if not at_once:
            send_line(process)
        assert process.stdout is not None
        texts.append(process.stdout.readline())
    seconds = time.perf_counter() - started
    for process in processes:
        process.communicate()
    return seconds, sum(float(text.split()[1]) for text in texts)


def send_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def measure_plain(bundle: Path, options: argparse.Namespace) -> None:
    alone, alone_cpu = time_plain(bundle, options.requests // 2, options, at_once=False)
    both, both_cpu = time_plain(bundle, options.requests // 2, options, at_once=True)
    print(f"two processes without Ray: one after the other {alone:.1f} s, at once {both:.1f} s: ", end="")
    print(f"{alone / both:.2f} times; CPU seconds {alone_cpu:.1f} and {both_cpu:.1f}", flush=True)


@contextmanager
def run_application(bundle: Path, replicas: int, port: int) -> Iterator[httpx.Client]:
    arguments = {"bundles": f"{NAME}={bundle}", "replicas": replicas, "provider": "cpu", "without_token": "true"}
    serve.run(build(arguments), name=NAME)
    try:
        with open_client(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        serve.delete(NAME)


def send_all(client: httpx.Client, requests: Sequence[dict[str, Any]], under_way: int) -> None:
    """Send requests, so many at a time; end the measurement if one is not answered with pictures."""

    def send(request: dict[str, Any]) -> None:
        answer = client.post(IMAGES, json=request)
        if answer.status_code != 200:
            sys.exit(f"{answer.status_code}: {answer.text}")

    with ThreadPoolExecutor(under_way) as pool:
        list(pool.map(send, requests))


def count_under_way(options: argparse.Namespace) -> int:
    """Twice as many requests as two replicas draw at once."""
    return 4 * max(1, ServeOptions().batch // options.n)


def measure_replicas(bundle: Path, replicas: int, port: int, options: argparse.Namespace) -> Rate:
    fields = {"n": options.n, "steps": options.steps}
    requests = [{"seed": seed * options.n, **fields} for seed in range(options.requests)]
    with run_application(bundle, replicas, port) as client:
        send_all(client, [{**fields, "steps": 2, "seed": seed} for seed in range(4 * replicas)], 4 * replicas)
        idle_seconds, idle, _ = count_cpu_seconds(lambda: time.sleep(IDLE_SECONDS))
        with limit_replicas(options.limit):
            seconds, used, shares = count_cpu_seconds(lambda: send_all(client, requests, count_under_way(options)))
    background = {role: value / idle_seconds for role, value in idle.items()}
    cpu = {role: max(0.0, value - background[role] * seconds) / len(requests) for role, value in used.items()}
    return Rate(len(requests) / seconds, cpu, sum(background.values()), shares)


def count_cpu_seconds(action: Callable[[], object]) -> tuple[float, Counter[str], Sequence[float]]:
    """The seconds of an action by the clock, the CPU seconds meanwhile by role, and the shares of the replicas."""
    before, started = read_cpu_seconds(), time.perf_counter()
    action()
    seconds, after = time.perf_counter() - started, read_cpu_seconds()
    used = Counter({key: value - before[key] for key, value in after.items()})
    roles: Counter[str] = Counter()
    for (role, _), value in used.items():
        roles[role] += value
    shares = [value / roles[REPLICAS] for (role, _), value in used.items() if role == REPLICAS and roles[REPLICAS] > 0]
    return seconds, roles, shares


@contextmanager
def limit_replicas(share: float) -> Iterator[None]:
    """Let each replica use a share of a core, by the cpu controller of cgroups, version 1 or 2; 1 is no limit."""
    folders = []
    if share < 1:
        version_1 = Path("/sys/fs/cgroup/cpu")
        parent = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
        quota = round(share * PERIOD)
        for _, pid in (key for key in read_cpu_seconds() if key[0] == REPLICAS):
            folder = parent / f"ray_serve_{pid}"
            folder.mkdir()
            folders.append(folder)
            if parent == version_1:
                (folder / "cpu.cfs_period_us").write_text(f"{PERIOD}")
                (folder / "cpu.cfs_quota_us").write_text(f"{quota}")
            else:
                (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
            (folder / "cgroup.procs").write_text(f"{pid}")
    try:
        yield
    finally:
        for folder in folders:
            for pid in (folder / "cgroup.procs").read_text().split():
                (folder.parent / "cgroup.procs").write_text(pid)
            folder.rmdir()


def read_cpu_seconds() -> Counter[tuple[str, int]]:
    """The CPU seconds so far of this process, the client, and of those that Ray has started, by role and process."""
    seconds = Counter({("client", os.getpid()): time.process_time()})
    for process in psutil.Process().children(recursive=True):
        try:
            line, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:  # it has ended in between
            continue
        role = next((role for text, role in ROLES.items() if text in line), "other")
        seconds[role, process.pid] += times.user + times.system
    return seconds


def describe_rate(rate: Rate, replicas: int, cores: int, share: float) -> str:
    total = sum(rate.cpu.values())
    ordered = sorted(rate.cpu.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{role} {value:.3f}" for role, value in ordered if value >= 0.0005)
    limit = rate.limit(replicas, cores, share)
    split = " and ".join(f"{share:.0%}" for share in rate.shares)
    return (
        f"{replicas} replicas ({split}): {rate.by_clock:.3f}/s by the clock, {limit:.3f}/s by CPU on {cores} cores; "
        f"CPU seconds of a request {total:.3f}, of which {rate.cpu[REPLICAS] / total:.0%} in the replicas: {shares}; "
        f"without requests {rate.idle:.3f} each second"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--n", type=int, default=4, help="pictures of each request")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=1.0, help="the share of a core that a replica may use")
    options = parser.parse_args()
    if options.requests < 1 or options.requests % count_under_way(options):
        parser.error(f"--requests: expected a multiple of {count_under_way(options)}, found {options.requests}")
    open_bundle(parser, options.bundle)
    bundle = options.bundle.absolute()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # also of the processes that it starts
    print(f"load average {os.getloadavg()[0]:.1f}, {options.cores} cores, Ray {ray.__version__}", flush=True)
    measure_plain(bundle, options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        rates: dict[int, list[Rate]] = {1: [], 2: []}
        for number in range(options.rounds):
            for replicas in (1, 2) if number % 2 == 0 else (2, 1):
                rate = measure_replicas(bundle, replicas, port, options)
                rates[replicas].append(rate)
                print(describe_rate(rate, replicas, options.cores, options.limit), flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()
    one, two = (median(rate.by_clock for rate in rates[replicas]) for replicas in rates)
    one_cpu, two_cpu = (median(rate.limit(n, options.cores, options.limit) for rate in rates[n]) for n in rates)
    print(f"two replicas against one: {two / one:.2f} times by the clock, {two_cpu / one_cpu:.2f} times by CPU")


if __name__ == "__main__":
    main()

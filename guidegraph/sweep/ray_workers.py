"""A sweep on Ray: one task for each cell, which Ray runs again where a worker or a whole node dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import GuidegraphError, Mark, Problem, WorkflowError
from guidegraph.graph.events import CancelToken
from guidegraph.rerun import portable_params
from guidegraph.sweep.cells import Cell
from guidegraph.sweep.remote import Made, Order, make_cell
from guidegraph.sweep.store import Store
from guidegraph.sweep.worker import Outcome
from guidegraph_runtime.error_text import error_text

LOCAL = "local"
RETRIES = 5
"""How often a cell is tried again whose worker died. A cell that fails by itself is not."""
_POLL, _KNOCK = 0.5, 10.0


@dataclass(frozen=True)
class Cluster:
    """Where to run: ``address`` as Ray has it, or ``local``. ``workers``: at most so many cells at once."""

    address: str
    workers: int | None


def local_workers(cluster: Cluster) -> int:
    """How many workers a local Ray has: as many as this process may use cores, unless it is said."""
    if cluster.workers is not None:
        return cluster.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Inside, Ray is connected, and ``sys.stdout`` is stderr.

    Raises ``GuidegraphError`` where it is not installed, ``WorkflowError`` where no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise GuidegraphError('missing-extra: --ray needs ray, which is not installed; pip install "guidegraph[ray]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if cluster.address == LOCAL:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers: this process has loaded its libraries
            os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: beside other work they would stand still
            ray.init(address=LOCAL, num_cpus=local_workers(cluster), include_dashboard=False, **quiet)
        else:
            _knock(cluster.address)
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        message = f"no Ray answers at '{cluster.address}': {error}"
        raise WorkflowError([Problem(Mark("--ray", 1, 1), "no-ray", message)]) from error
    with redirect_stdout(sys.stderr):  # what Ray prints of nodes that die, up to its own end, is for a person
        try:
            for number, handler in handlers.items():  # Ray sets its own, which would end the process
                signal.signal(number, handler)
            yield
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises ``OSError`` where nothing listens at ``[ray://]HOST:PORT``: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def run_on_ray(
    cells: Iterable[Cell], order: Order, cluster: Cluster, store: Store, cancel: CancelToken
) -> Iterator[tuple[Cell, Outcome]]:
    """Run cells on a connected Ray, each kept as soon as it comes back.

    Raises ``Cancelled``, and ``WorkflowError`` where the cells need GPUs and the cluster has none.
    """
    import ray

    gpus = int(order.device != "cpu")
    if _resource("GPU") < gpus:  # Ray would wait for one for ever
        message = f"'{order.device}' was asked for, and no machine of this Ray has a GPU"
        raise WorkflowError([Problem(Mark("--device", 1, 1), "no-device", message)])
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(make_cell)
    sent = ray.put(order)
    running: dict[Any, Cell] = {}
    waiting = iter(cells)
    try:
        while True:
            for _ in range(_window(cluster) - len(running)):
                if (cell := next(waiting, None)) is None:
                    break
                running[task.remote(sent, cell.key, portable_params(cell.values))] = cell
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_POLL)
            cancel.check()
            for reference in ready:
                cell = running.pop(reference)
                made = _result(reference)
                with store.temporary(cell.key) as folder:
                    for name, data in made.files.items():
                        _write(folder / name, data)
                    store.keep(cell.key, folder, made.outcome)
                yield cell, made.outcome
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _window(cluster: Cluster) -> int:
    """How many cells are sent at once: twice as many as can run, so that no worker waits for its next."""
    if cluster.workers is not None and cluster.address != LOCAL:
        return cluster.workers
    return 2 * max(1, int(_resource("CPU")))


def _resource(name: str) -> float:
    """How much of a resource the machines of the connected Ray have together."""
    import ray

    connected: Any = ray  # its types are there where Ray is installed, and not everywhere
    found: dict[str, float] = connected.cluster_resources()
    return found.get(name, 0.0)


def _result(reference: Any) -> Made:
    """What a task gave; a worker that died once too often is a failed cell."""
    import ray

    try:
        made: Made = ray.get(reference)
        return made
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        text = " ".join(error_text(cause).split())
        return Made(Outcome("failed", 0.0, f"the worker did not finish: {type(error).__name__}: {text}"), {})


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

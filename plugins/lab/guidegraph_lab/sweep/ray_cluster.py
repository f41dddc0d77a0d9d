"""A sweep on Ray: one task per cell, which Ray retries when a worker or a machine dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.runs.recipe import portable_params
from guidegraph_lab.sweep.cells import Cell
from guidegraph_lab.sweep.ray_worker import CellResult, SweepOrder, run_cell
from guidegraph_lab.sweep.sweep_folder import Store
from guidegraph_lab.sweep.worker import Outcome
from guidegraph_runtime.error_text import error_text

LOCAL = "local"
RETRIES = 5
"""How often a cell is retried after its worker died. A cell that fails by itself is not retried."""
_POLL, _CONNECT_TIMEOUT = 0.5, 10.0


@dataclass(frozen=True)
class Cluster:
    """The Ray to run on: ``address`` in Ray's form, or ``local``. ``workers``: the maximum number of cells at once."""

    address: str
    workers: int | None


def is_ray_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def local_workers(cluster: Cluster) -> int:
    """The number of workers of a local Ray: as requested, or the number of cores that this process may use."""
    if cluster.workers is not None:
        return cluster.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connect_ray(cluster: Cluster) -> Iterator[None]:
    """Context manager: connect to Ray, and redirect ``sys.stdout`` to stderr.

    Raises ``WorkflowError`` if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if cluster.address == LOCAL:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers; this process has loaded its libraries
            os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, starves them on a busy machine
            ray.init(address=LOCAL, num_cpus=local_workers(cluster), include_dashboard=False, **quiet)
        else:
            host, _, port = cluster.address.rpartition("://")[2].rpartition(":")
            if host and port.isdigit():  # Ray itself would retry for minutes if nothing listens there
                socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        message = f"no Ray answers at '{cluster.address}': {error}"
        raise WorkflowError([Problem(Mark("--ray", 1, 1), "no-ray", message)]) from error
    with redirect_stdout(sys.stderr):  # Ray's messages on dead nodes, until it shuts down
        try:
            for number, handler in handlers.items():  # Ray's own would end the process
                signal.signal(number, handler)
            yield
        finally:
            ray.shutdown()


def run_on_ray(
    cells: Iterable[Cell], order: SweepOrder, cluster: Cluster, store: Store, cancel: CancelToken
) -> Iterator[tuple[Cell, Outcome]]:
    """Run cells on a connected Ray, storing each as soon as it returns.

    Raises ``Cancelled``, and ``WorkflowError`` if the cells need GPUs and the cluster has none.
    """
    import ray

    gpus = int(order.config.device != "cpu")
    if _resource("GPU") < gpus:  # Ray would wait forever
        message = f"'{order.config.device}' was asked for, and no machine of this Ray has a GPU"
        raise WorkflowError([Problem(Mark("--device", 1, 1), "no-device", message)])
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_cell)
    order_reference = ray.put(order)
    running: dict[Any, Cell] = {}
    waiting = iter(cells)
    try:
        while True:
            window = cluster.workers
            if window is None or cluster.address == LOCAL:
                window = 2 * max(1, int(_resource("CPU")))  # twice as many as can run: no worker waits for the next
            for _ in range(window - len(running)):
                if (cell := next(waiting, None)) is None:
                    break
                running[task.remote(order_reference, cell.key, portable_params(cell.values))] = cell
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_POLL)
            cancel.check()
            for reference in ready:
                cell = running.pop(reference)
                yield cell, store.make_cell(cell.key, _result(reference).write)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _resource(name: str) -> float:
    """The total of a resource over the machines of the connected Ray."""
    import ray

    client: Any = ray  # Ray may not be installed, and then its types are missing
    totals: dict[str, float] = client.cluster_resources()
    return totals.get(name, 0.0)


def _result(reference: Any) -> CellResult:
    """The result of a task. A worker that died too often makes a failed cell."""
    import ray

    try:
        result: CellResult = ray.get(reference)
        return result
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        text = " ".join(error_text(cause).split())
        return CellResult(Outcome("failed", 0.0, f"the worker did not finish: {type(error).__name__}: {text}"), {})

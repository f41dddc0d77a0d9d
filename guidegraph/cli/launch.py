"""``run --devices``: the same command in several processes, each with its share of every training batch."""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guidegraph.cli.cancel import CANCELLED
from guidegraph.cli.errors import argument_problem, say
from guidegraph.graph.errors import GuidegraphError, WorkflowError
from guidegraph.graph.ir import Graph, Loop, walk
from guidegraph.graph.share import process_share


class LaunchError(GuidegraphError):
    """A process of a training ended in another way than by its own error."""


@dataclass(frozen=True)
class Processes:
    """How many processes a training has: on this machine, and on how many machines.

    rank: which of the machines this is. rendezvous: HOST:PORT of the first, where they find each other. restarts: how
    often all are started again after one was killed.
    """

    devices: int | None = None
    nodes: int = 1
    rank: int = 0
    rendezvous: str | None = None
    restarts: int = 3

    @property
    def several(self) -> bool:
        """Whether this process has to start others, rather than being one of them, or alone."""
        asked = (self.devices or 1) > 1 or self.nodes > 1 or self.rank > 0 or self.rendezvous is not None
        return asked and process_share().count == 1


def check_processes(given: Processes, graph: Graph, device: str) -> None:
    """Raise ``WorkflowError`` for a training that cannot be shared as it is asked."""
    problems = []
    if not any(isinstance(op, Loop) and op.training is not None for op in walk(graph.ops)):
        message = "the workflow has no training loop, and only a training is shared among processes"
        problems.append(argument_problem("no-training", message, "--devices"))
    if given.nodes > 1 and (given.rendezvous is None or ":" not in given.rendezvous):
        message = "several machines find each other at HOST:PORT of the first: give it on each of them"
        problems.append(argument_problem("no-rendezvous", message, "--rendezvous"))
    if given.nodes == 1 and given.rendezvous is not None:
        message = "it is where several machines find each other: give --nodes and --node-rank too"
        problems.append(argument_problem("one-node", message, "--rendezvous"))
    if not 0 <= given.rank < given.nodes:
        message = f"the machines are 0 … {given.nodes - 1}; found {given.rank}"
        problems.append(argument_problem("no-such-node", message, "--node-rank"))
    if ":" in device:
        message = "with several devices each process takes one of its own: say cuda"
        problems.append(argument_problem("one-device", message, "--device"))
    if device == "cuda" and (given.devices or 1) > (there := cuda_devices()):
        message = f"each process takes a device of its own; found {there} on this machine for {given.devices} processes"
        problems.append(argument_problem("too-few-devices", message, "--devices"))
    if problems:
        raise WorkflowError(problems)


def cuda_devices() -> int:
    """How many CUDA devices this machine has."""
    import torch

    return torch.cuda.device_count()


def launch(given: Processes, arguments: Sequence[str], folder: Path) -> None:
    """Run ``guidegraph`` with these arguments in all processes of this machine, and wait for them.

    A process that was killed (by the machine's memory guard, say) ends the others, and all start again from the last
    checkpoint; one that fails by itself is not started again. Raises ``SystemExit`` with the exit code of the process
    that failed first, and ``LaunchError`` where it was killed once too often.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    command = ["-m", "guidegraph", *arguments, *([] if "--out" in arguments else ["--out", str(folder)])]
    left = given.restarts
    while True:
        try:
            _elastic(given, command)
            return
        except SignalException as stopped:
            say("cancelled")
            raise SystemExit(CANCELLED) from stopped
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            own = [code for code in codes.values() if code > 0]
            # Where one was killed, the launcher ends the others, and they may abort.
            killed = [rank for rank, code in codes.items() if code == -signal.SIGKILL] or [
                rank for rank, code in codes.items() if code < 0
            ]
            if not killed:
                raise SystemExit(own[0] if own else 1) from error
            if left == 0 or given.nodes > 1:
                names = ", ".join(f"process {rank} (signal {-codes[rank]})" for rank in killed)
                message = f"{names} was killed, after {given.restarts - left} restarts: the checkpoint is kept"
                raise LaunchError(message) from None
            left -= 1
            say(f"process {', '.join(map(str, killed))} was killed: all start again from the last checkpoint")


def _elastic(given: Processes, command: Sequence[str]) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = given.nodes > 1
    config = LaunchConfig(
        min_nodes=given.nodes,
        max_nodes=given.nodes,
        nproc_per_node=given.devices or 1,
        # All machines must give the training one name; alone, any will do.
        run_id=f"guidegraph-{given.rendezvous}" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=given.rendezvous or "localhost:0",
        rdzv_configs={"rank": given.rank, "timeout": 900} if several else {},
        max_restarts=given.restarts if several else 0,
        signals_to_handle="SIGTERM,SIGINT",
    )
    elastic_launch(config, sys.executable)(*command)

"""``run --devices``: the same command in several processes, each a rank with its slice of every training batch."""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guidegraph.commands.shared.errors import CANCELLED, argument_problem
from guidegraph.commands.shared.printing import print_note, release_stdout
from guidegraph.graph.errors import GuidegraphError, WorkflowError
from guidegraph.graph.ir import Graph, walk
from guidegraph.graph.late import torch
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.training.ranks import process_rank


class LaunchError(GuidegraphError):
    """A training process was killed, rather than failing by its own error."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training: ``devices`` on each of ``nodes`` machines.

    rank: the index of this machine. rendezvous: HOST:PORT of the first machine, where the others find it. restarts: how
    often all are restarted after one was killed.
    """

    devices: int | None = None
    nodes: int = 1
    rank: int = 0
    rendezvous: str | None = None
    restarts: int = 3

    @property
    def starts_others(self) -> bool:
        """Whether this process must start others: neither one of them nor the only one."""
        multiple = (self.devices or 1) > 1 or self.nodes > 1 or self.rank > 0 or self.rendezvous is not None
        return multiple and process_rank().count == 1


def check_processes(processes: Processes, graph: Graph, device: str) -> None:
    """Raise ``WorkflowError`` if the training cannot be distributed as requested."""
    problems = []
    if not any(isinstance(op, Fit) for op in walk(graph.ops)):
        message = "the workflow has no training loop, and only a training is shared among processes"
        problems.append(argument_problem("no-training", message, "--devices"))
    if processes.nodes > 1 and (processes.rendezvous is None or ":" not in processes.rendezvous):
        message = "several machines find each other at HOST:PORT of the first: give it on each of them"
        problems.append(argument_problem("no-rendezvous", message, "--rendezvous"))
    if processes.nodes == 1 and processes.rendezvous is not None:
        message = "it is where several machines find each other: give --nodes and --node-rank too"
        problems.append(argument_problem("one-node", message, "--rendezvous"))
    if not 0 <= processes.rank < processes.nodes:
        message = f"the machines are 0 … {processes.nodes - 1}; found {processes.rank}"
        problems.append(argument_problem("no-such-node", message, "--node-rank"))
    if ":" in device:
        message = "with several devices each process takes one of its own: say cuda"
        problems.append(argument_problem("one-device", message, "--device"))
    if device == "cuda" and (processes.devices or 1) > (available := count_cuda_devices()):
        shortage = f"found {available} on this machine for {processes.devices} processes"
        message = f"each process takes a device of its own; {shortage}"
        problems.append(argument_problem("too-few-devices", message, "--devices"))
    if problems:
        raise WorkflowError(problems)


def count_cuda_devices() -> int:
    """The number of CUDA devices of this machine."""
    return torch.cuda.device_count()


def launch(processes: Processes, arguments: Sequence[str], folder: Path) -> None:
    """Run ``guidegraph`` with these arguments in all processes of this machine, and wait for them.

    If a process is killed (by the out-of-memory killer, for example), the others are stopped and all restart from the
    last checkpoint. One that fails by itself is not restarted. Raises ``SystemExit`` with the exit code of the process
    that failed first, and ``LaunchError`` when the restarts are used up.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    command = ["-m", "guidegraph", *arguments, *([] if "--out" in arguments else ["--out", str(folder)])]
    restarts = processes.restarts
    while True:
        try:
            _elastic(processes, command)
            return
        except SignalException as stopped:
            print_note("cancelled")
            raise SystemExit(CANCELLED) from stopped
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            own = [code for code in codes.values() if code > 0]
            killed = _list_killed(codes)
            if not killed:
                raise SystemExit(own[0] if own else 1) from error
            if restarts == 0 or processes.nodes > 1:
                names = ", ".join(f"process {rank} (signal {-codes[rank]})" for rank in killed)
                message = f"{names} was killed, after {processes.restarts - restarts} restarts: the checkpoint is kept"
                raise LaunchError(message) from None
            restarts -= 1
            print_note(f"process {', '.join(map(str, killed))} was killed: all start again from the last checkpoint")


def _list_killed(codes: Mapping[int, int]) -> list[int]:
    """The ranks that were killed, by the exit codes of all that did not succeed.

    When one ends, the launcher stops the others by SIGTERM, and they may abort.
    """
    killed = [rank for rank, code in codes.items() if code == -signal.SIGKILL]
    stopped_by_launcher = -signal.SIGTERM if any(code > 0 for code in codes.values()) else None
    return killed or [rank for rank, code in codes.items() if code < 0 and code != stopped_by_launcher]


def _elastic(processes: Processes, command: Sequence[str]) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    release_stdout()
    several = processes.nodes > 1
    config = LaunchConfig(
        min_nodes=processes.nodes,
        max_nodes=processes.nodes,
        nproc_per_node=processes.devices or 1,
        # All machines must use the same name; on one machine any name will do.
        run_id=f"guidegraph-{processes.rendezvous}" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=processes.rendezvous or "localhost:0",
        rdzv_configs={"rank": processes.rank, "timeout": 900} if several else {},
        max_restarts=processes.restarts if several else 0,
        signals_to_handle="SIGTERM,SIGINT",
    )
    elastic_launch(config, sys.executable)(*command)

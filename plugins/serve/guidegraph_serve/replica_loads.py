"""The work that each replica has been sent and has not ended: the next request goes to the one with the least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True)
class Assignment:
    """A request at a replica. work: its iterations times its samples. is_dropped: whether it will never be sent."""

    replica: str
    work: int
    is_dropped: Callable[[], bool]


class ReplicaLoads:
    """The open work of replicas by name. Its methods may be called in any thread.

    Work is counted when a replica is chosen and not when it answers, so requests that arrive at once are spread, and it
    is weighed, so a long request counts as several short ones. The steps of all bundles count alike.
    """

    def __init__(self) -> None:
        self._assignments: dict[str, Assignment] = {}
        self._turns: dict[str, int] = {}
        self._lock = Lock()

    def assign(self, request: str, work: int, replicas: Iterable[str], is_dropped: Callable[[], bool]) -> list[str]:
        """Count a request at the replica with the least work, and return all replicas, that one first.

        Replicas with equal work take turns, and those that are not among ``replicas`` are forgotten. request: its id;
        one that was assigned before is assigned again. is_dropped: asked until the request is sent.
        """
        with self._lock:
            names = [*replicas]
            self._assignments.pop(request, None)
            self._assignments = {
                name: assignment
                for name, assignment in self._assignments.items()
                if assignment.replica in names and not assignment.is_dropped()
            }
            self._turns = {name: turn for name, turn in self._turns.items() if name in names}
            loads = dict.fromkeys(names, 0)
            for assignment in self._assignments.values():
                loads[assignment.replica] += assignment.work
            order = sorted(names, key=lambda name: (loads[name], self._turns.get(name, 0)))
            if order:
                self._assignments[request] = Assignment(order[0], work, is_dropped)
                self._turns[order[0]] = max(self._turns.values(), default=0) + 1
            return order

    def send(self, request: str, replica: str) -> None:
        """Count a request at the replica that has taken it, which may be another than the first one."""
        with self._lock:
            assignment = self._assignments.get(request)
            if assignment is not None:
                self._assignments[request] = Assignment(replica, assignment.work, lambda: False)

    def release(self, request: str) -> None:
        """Count a request no more: it has ended."""
        with self._lock:
            self._assignments.pop(request, None)

"""Several tasks that take turns: one runs at a time, until it waits for the others or ends.

Each task has a thread of its own, since it is an ordinary run that stops in the middle of a node. No two of them ever
run at the same moment, so they need no more care of shared state than runs one after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from guidegraph.graph.errors import Cancelled


class Task:
    """A task with a thread. function: called with the task. request: set by the task while it waits.

    result, error: of the function, once it has ended.
    """

    def __init__(self, index: int, function: Callable[[Task], Any], turns: Turns) -> None:
        self.index, self.request = index, None
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._function, self._turns = function, turns
        self._order: Callable[[], None] | None = None
        self._aborted = False
        self._go = threading.Semaphore(0)
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name=f"guidegraph-{index}", daemon=True)

    request: Any

    def start(self) -> None:
        """Let the task run until it waits or ends."""
        self._thread.start()
        self._turns.wait()

    def resume(self, order: Callable[[], None] | None = None) -> None:
        """Let a waiting task run until it waits again or ends. order: run on its thread instead of the task itself."""
        self._order = order
        self._go.release()
        self._turns.wait()

    def abort(self) -> None:
        """Let the task end with ``Cancelled``: now if it waits, or else at its next wait."""
        self._aborted = True
        if self.request is not None and not self.ended:
            self.resume()

    def wait(self, request: Any) -> None:
        """Give the turn away until the task is resumed. Called by the task."""
        self.request = request
        self._yield()
        while (order := self._order) is not None:
            self._order = None
            order()
            self._yield()
        self.request = None

    def _yield(self) -> None:
        if not self._aborted:
            self._turns.give_back()
            self._go.acquire()
        if self._aborted:
            raise Cancelled("the run was cancelled")

    def _run(self) -> None:
        try:
            self.result = self._function(self)
        except BaseException as error:  # raised again by whoever started the tasks
            self.error = error
        self.ended = True
        self._turns.give_back()


class Turns:
    """Tasks that take turns. at_once: the most tasks that have started and not ended."""

    def __init__(self, functions: Sequence[Callable[[Task], Any]], at_once: int) -> None:
        self._turn = threading.Semaphore(0)
        self._at_once = at_once
        self.tasks = [Task(i, function, self) for i, function in enumerate(functions)]

    def run(self, serve: Callable[[Sequence[Task]], None]) -> None:
        """Run all tasks to their end, or to the first error, which ends the others and is raised.

        serve: called with the waiting tasks, in order, to answer their requests; they are resumed afterwards.
        """
        pending, active = deque(self.tasks), list[Task]()
        try:
            while pending or active:
                while pending and len(active) < self._at_once:
                    active.append(pending.popleft())
                    active[-1].start()
                    active = self._keep_waiting(active)
                if active:
                    serve(active)
                active = self._keep_waiting(active)  # a task may end by an error of what it was asked to do
                for task in active:
                    task.resume()
                    self._keep_waiting([task])
                active = self._keep_waiting(active)
        except BaseException:
            for task in active:
                task.abort()
            raise

    def _keep_waiting(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that have not ended. Raises the error of one that failed."""
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task for task in tasks if not task.ended]

    def wait(self) -> None:
        """Wait until the running task gives the turn back."""
        self._turn.acquire()

    def give_back(self) -> None:
        self._turn.release()

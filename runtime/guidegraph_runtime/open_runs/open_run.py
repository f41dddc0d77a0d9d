"""A run of a bundle that is held open at the pauses of its walk, so that others can step with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import Computation
from guidegraph_runtime.running.operation_order import reads, select_operations
from guidegraph_runtime.running.values import Loop, Values
from guidegraph_runtime.running.walk import Pause, Results
from guidegraph_runtime.sessions.call_limits import NEEDS_MEMORY, call_for
from guidegraph_runtime.sessions.device_values import to_host
from guidegraph_runtime.sessions.sessions import Session

Array = NDArray[Any]


class OpenRun:
    """A run that `Bundle.start` began, and that `Bundle.step` moves on by one iteration of a loop.

    owner: the bundle. computation, operations: of the plan. sources: the plan's value for each output. sessions: those
    of the parts that LoRAs change. turn: held while the run computes, as CUDA graphs need.
    outputs: those that are complete. failed: it cannot be stepped or finished. count, total: the iterations done,
    and the iterations of the loops entered so far. seconds: the time that the run has taken while it was not held.
    still_waits: whether anybody waits for the run; a call that is for no such run is ended.
    unshared: why the run last had a call of a part for itself, though others stepped with it; "" if it shared all.
    """

    def __init__(
        self,
        owner: object,
        computation: Computation,
        operations: Sequence[Operation],
        sources: Mapping[str, str],
        sessions: Mapping[str, Session],
        turn: AbstractContextManager[Any],
    ) -> None:
        self.owner, self.computation, self.sessions, self.lock = owner, computation, sessions, RLock()
        self.outputs: dict[str, Array] = {}
        self.count = self.total = 0
        self.seconds = 0.0
        self.unshared = ""
        self.still_waits: Callable[[], bool] = lambda: True
        self.sources, self._operations, self._turn = sources, operations, turn
        self._walk = computation.walk(operations, [*sources.values()])
        self._loop: Operation | None = None
        self._loops_left = sum(operation.op == "loop" for operation in operations)
        self._failure, self._failure_code = "", "operation-failed"

    @property
    def done(self) -> bool:
        """Whether no loop is left to step through, so that `finish` gives the outputs."""
        return self._loop is None

    @property
    def failed(self) -> bool:
        """Whether the run has failed, so that it can neither be stepped nor finished."""
        return bool(self._failure)

    def advance(self, results: Results | None = None) -> Pause | None:
        """Run to the next pause of the walk, and return it; None at its end. Keeps outputs that are complete.

        results: of the part at which the run waits; by default it runs that. Raises ``BundleError``.
        """
        started = time.monotonic()
        self.computation.started = started - self.seconds
        try:
            pause = self._walk.send(results)
        except StopIteration:
            return None
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.seconds += time.monotonic() - started
        if pause.depth:
            return pause
        if pause.kind == "iteration":
            self.total += 0 if pause.count else pause.total
            self.count += 1 if pause.count else 0
            is_over = pause.count == pause.total
            self._loop, self._loops_left = None if is_over else pause.operation, self._loops_left - is_over
        elif pause.kind == "done":
            for name, source in self.sources.items():
                if source in pause.operation.outputs:
                    # A copy: the value may be a table of the bundle, and later operations may read it.
                    self.outputs[name] = np.array(to_host(self.computation.values.read(source)))
        return pause

    def run_to_loop(self) -> None:
        """Run operations up to the next loop, and enter it. Those after the last loop are left for `finish`."""
        while self._loop is None and self._loops_left and self.advance() is not None:
            pass

    def run_to_part(self, results: Results | None = None) -> Operation | None:
        """Run operations of the iteration up to a part, and return that; None after the iteration.

        After the last one, it runs on to the next loop, if there is one. results: see ``advance``.
        """
        with call_for(self.still_waits):
            while (pause := self.advance(results)) is not None:
                results = None
                if pause.kind == "part" and pause.depth == 1:
                    return pause.operation
                if pause.kind == "iteration" and not pause.depth:
                    self.run_to_loop()
                    break
        return None

    def read_carries(self) -> dict[str, Array]:
        """The values that the current loop carries, by the names of the plan, as arrays of the host."""
        with self._turn, self.lock:
            if self._loop is None:
                return {}
            values = self.computation.values
            return {name: np.array(to_host(values.read(name))) for name in Loop.of(self._loop).start}

    def draw_now(self, output: str) -> Array | None:
        """An output as it would be if the current loop ended now; None outside of a loop or if more follows than parts.

        What follows the loop runs on a copy of the values, so the run is not changed. Raises ``BundleError``.
        """
        with self._turn, self.lock:
            if self._loop is None:
                return None
            loop, source = Loop.of(self._loop), self.sources[output]
            position = next(i for i, operation in enumerate(self._operations) if operation is self._loop)
            after = select_operations(self._operations[position + 1 :], [source])
            if any(operation.op == "loop" or not reads(operation).isdisjoint(loop.collect) for operation in after):
                return None
            values = Values(self.computation.values)
            values.update({name: values.read(link) for name, link in loop.result.items()})
            with call_for(self.still_waits):
                replace(self.computation, values=values).run(after, [source])
            return np.array(to_host(values.read(source)))

    def finish(self) -> dict[str, Array]:
        """Run what follows the loops, and return the outputs by name; they belong to the caller.

        Raises ``BundleError`` for a run that is not done, or that has failed.
        """
        with self._turn, self.lock:
            self.check_open()
            if not self.done:
                message = f"the run has done {self.count} of {self.total} steps: call bundle.step until run.done"
                raise BundleError(self.computation.location, "not-done", message)
            with call_for(self.still_waits):
                while self.advance() is not None:
                    pass
            return {name: np.array(output) for name, output in self.list_outputs().items()}

    def list_outputs(self) -> dict[str, Array]:
        """All outputs of a run that is at its end. Raises ``BundleError`` if one is missing."""
        if missing := [name for name in self.sources if name not in self.outputs]:
            message = f"no operation of the plan computes the output '{missing[0]}'; export the workflow again"
            raise BundleError(self.computation.location, "operation-failed", message)
        return {name: self.outputs[name] for name in self.sources}

    def check_open(self) -> None:
        """Raise ``BundleError`` for a run that has failed."""
        if self.failed:
            message = f"the run has failed, and cannot go on: {self._failure}"
            raise BundleError(self.computation.location, self._failure_code, message)

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed by an error, with the name of the file that it is about, and not its folder."""
        if self._failure:
            return
        self._failure = str(error) or type(error).__name__
        if isinstance(error, BundleError):
            self._failure = f"{os.path.basename(error.where)}: {error.code}: {error.message}"
            self._failure_code = NEEDS_MEMORY if error.code == NEEDS_MEMORY else self._failure_code

"""A run of a bundle that is held open between the iterations of its loops, so that others can step with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.iterations import Iterations
from guidegraph_runtime.running.loops import Loop
from guidegraph_runtime.running.operation_order import reads, select_operations
from guidegraph_runtime.running.plan import PlanRun
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.call_limits import NEEDS_MEMORY, call_for
from guidegraph_runtime.sessions.device_values import to_host
from guidegraph_runtime.sessions.sessions import Session

Array = NDArray[Any]


class OpenRun:
    """A run that `Bundle.start` began, and that `Bundle.step` moves on by one iteration of a loop.

    owner: the bundle. operations: of the plan, in order. sources: the plan's value for each output. sessions: those of
    the parts that LoRAs change.
    turn: held while the run computes, as CUDA graphs need.
    done: all loops have ended. failed: it cannot go on. count, total: iterations done, and those of the loops entered
    so far.
    still_waits: whether anybody waits for the run; a call that is for no such run is ended.
    unshared: why the run last had a call of a part for itself, though others stepped with it; "" if it shared all.
    """

    def __init__(
        self,
        owner: object,
        plan_run: PlanRun,
        operations: Sequence[Operation],
        sources: Mapping[str, str],
        sessions: Mapping[str, Session],
        turn: AbstractContextManager[Any],
    ) -> None:
        self.owner, self.sessions, self.lock, self._turn = owner, sessions, RLock(), turn
        self.count = self.total = 0
        self.unshared = ""
        self.still_waits: Callable[[], bool] = lambda: True
        self._plan_run, self._operations, self._sources = plan_run, operations, dict(sources)
        self._scheduled = plan_run.schedule(operations, [*sources.values()])
        self._outputs: dict[str, Array] = {}
        self._loop: Operation | None = None
        self._iterations: Iterations | None = None
        self._iteration = 0
        self._trips = ExitStack()
        self._body: Iterator[Operation] = iter(())
        self._elapsed, self._failure, self._failure_code = 0.0, "", "operation-failed"
        with self._turn, self._count_time():
            self._next = next(self._scheduled, None)
            self._run_to_loop()

    @property
    def done(self) -> bool:
        """Whether no loop is left to step through, so that `finish` gives the outputs."""
        return self._iterations is None

    @property
    def failed(self) -> bool:
        """Whether the run has failed, and cannot go on."""
        return bool(self._failure)

    def read_carries(self) -> dict[str, Array]:
        """The values that the current loop carries, by the names of the plan, as arrays of the host."""
        with self._turn, self.lock:
            if self._loop is None:
                return {}
            values = self._plan_run.values
            return {name: np.array(to_host(values.read(name))) for name in Loop.of(self._loop).start}

    def draw_now(self, output: str) -> Array | None:
        """An output as it would be if the current loop ended now; None outside of a loop or if more follows than parts.

        What follows the loop runs on a copy of the values, so the run goes on as it was. Raises ``BundleError``.
        """
        with self._turn, self.lock:
            if self._loop is None:
                return None
            loop, source = Loop.of(self._loop), self._sources[output]
            position = next(i for i, operation in enumerate(self._operations) if operation is self._loop)
            after = select_operations(self._operations[position + 1 :], [source])
            if any(operation.op == "loop" or not reads(operation).isdisjoint(loop.collect) for operation in after):
                return None
            values = Values(self._plan_run.values)
            values.update({name: values.read(link) for name, link in loop.result.items()})
            run = replace(self._plan_run, values=values)
            with call_for(self.still_waits):
                for operation in run.schedule(after, [source]):
                    run.run([operation])
            return np.array(to_host(values.read(source)))

    def finish(self) -> dict[str, Array]:
        """Run what follows the loops, and return the outputs by name; they belong to the caller.

        Raises ``BundleError`` for a run that is not done, or that has failed.
        """
        with self._turn, self.lock:
            self.check_open()
            if not self.done:
                message = f"the run has done {self.count} of {self.total} steps: call bundle.step until run.done"
                raise BundleError(self._plan_run.location, "not-done", message)
            with self._count_time(), call_for(self.still_waits):
                while self._next is not None:
                    self._run_next()
            if missing := [name for name in self._sources if name not in self._outputs]:
                message = f"no operation of the plan computes the output '{missing[0]}'; export the workflow again"
                raise BundleError(self._plan_run.location, "operation-failed", message)
            return {name: np.array(self._outputs[name]) for name in self._sources}

    def check_open(self) -> None:
        """Raise ``BundleError`` for a run that has failed."""
        if self.failed:
            message = f"the run has failed, and cannot go on: {self._failure}"
            raise BundleError(self._plan_run.location, self._failure_code, message)

    def begin_iteration(self) -> None:
        """Begin the next iteration of the current loop."""
        assert self._iterations is not None
        assert self._loop is not None
        with self.naming(self._loop):
            self._iterations.begin(self._iteration)
        self._body = iter(self._plan_run.list_body(self._loop))

    def run_to_part(self) -> Operation | None:
        """Run operations of the iteration up to a part, and return that; None at the end of the iteration."""
        with self._count_time():
            for operation in self._body:
                if operation.op == "part":
                    return operation
                self._plan_run.run([operation])
            return None

    def run_alone(self, part: Operation) -> None:
        """Run a part for this run alone."""
        with self._count_time(), call_for(self.still_waits):
            self._plan_run.run([part])

    def read_part_inputs(self, part: Operation) -> dict[str, Any]:
        """The inputs of a part. Raises ``BundleError`` if they are not those that its graph was traced for."""
        with self.naming(part):
            return self._plan_run.read_part_inputs(part)

    @contextmanager
    def naming(self, operation: Operation) -> Iterator[None]:
        """Raise errors of the block as a ``BundleError`` that names an operation."""
        with self._plan_run.naming(operation):
            yield

    def set_results(self, part: Operation, results: Mapping[str, Any], seconds: float) -> None:
        """Set the results of a part that was run for several runs at once; its time counts as that of each."""
        self._elapsed += seconds
        self._plan_run.values.update({name: results[name] for name in part.outputs})

    def end_iteration(self) -> None:
        """End the iteration; after the last one, run on to the next loop, if there is one."""
        assert self._iterations is not None
        assert self._loop is not None
        with self._count_time():
            with self.naming(self._loop):
                self._iterations.end()
            self._iteration, self.count = self._iteration + 1, self.count + 1
            if self._iteration == len(self._iterations):
                self._leave_loop()
                self._run_to_loop()

    def _leave_loop(self) -> None:
        assert self._iterations is not None
        assert self._loop is not None
        self._iterations.leave()
        self._trips.close()
        self._keep_outputs(self._loop)
        self._loop = self._iterations = None
        self._next = next(self._scheduled, None)

    def _run_to_loop(self) -> None:
        """Run operations up to the next loop, and enter it. Those after the last loop are left for `finish`."""
        while self._next is not None and self._iterations is None and self._has_loop():
            if self._next.op != "loop":
                self._run_next()
                continue
            with self._plan_run.naming(self._next):
                self._loop, self._iteration = self._next, 0
                self._trips.enter_context(self._plan_run.trips.scope())
                self._iterations = self._plan_run.enter_loop(self._next)
            self.total += len(self._iterations)
            if not len(self._iterations):
                self._leave_loop()

    def _has_loop(self) -> bool:
        """Whether a loop is the next operation or may follow it."""
        position = next(i for i, operation in enumerate(self._operations) if operation is self._next)
        return any(operation.op == "loop" for operation in self._operations[position:])

    def _run_next(self) -> None:
        assert self._next is not None
        self._plan_run.run([self._next])
        self._keep_outputs(self._next)
        self._next = next(self._scheduled, None)

    def _keep_outputs(self, operation: Operation) -> None:
        values = self._plan_run.values
        for name, source in self._sources.items():
            if source in operation.outputs:
                self._outputs[name] = np.array(to_host(values.read(source)))

    @contextmanager
    def _count_time(self) -> Iterator[None]:
        """Count the block's time as the run's, and remember its failure."""
        started = time.monotonic()
        self._plan_run.started = started - self._elapsed
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self._elapsed += time.monotonic() - started

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed by an error."""
        if not self._failure and isinstance(error, BundleError) and error.code == NEEDS_MEMORY:
            self._failure_code = NEEDS_MEMORY
        self._failure = self._failure or _describe_failure(error)


def _describe_failure(error: BaseException) -> str:
    """An error as a line, with the name of the file that it is about, and not its folder."""
    if isinstance(error, BundleError):
        return f"{os.path.basename(error.where)}: {error.code}: {error.message}"
    return str(error) or type(error).__name__

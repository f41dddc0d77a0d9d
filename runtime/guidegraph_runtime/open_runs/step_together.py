"""One iteration of several open runs at once, which share the calls of the parts that they have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

from guidegraph_runtime.bundle.manifest_types import Manifest, Operation
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.open_runs.joined_calls import JoinCache, PartCall, find_difference, split_results
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.compute import PartRunner
from guidegraph_runtime.running.walk import Results
from guidegraph_runtime.sessions.call_limits import call_for
from guidegraph_runtime.sessions.sessions import Session

Group: TypeAlias = list[tuple[OpenRun, Operation, PartCall]]
"""Runs whose calls of one part can be one call."""

MakeCaller: TypeAlias = Callable[[Mapping[str, Session]], PartRunner]
"""Makes a function that runs parts, with these sessions for those that LoRAs change."""


class TogetherStep:
    """One iteration of some open runs of a bundle.

    cache: joined inputs of earlier steps. make_caller: gives the function that runs parts for joined inputs.
    """

    def __init__(self, manifest: Manifest, cache: JoinCache, make_caller: MakeCaller) -> None:
        self._manifest, self._cache, self._make_caller = manifest, cache, make_caller
        self._errors: dict[OpenRun, BaseException] = {}

    def run(self, runs: Sequence[OpenRun]) -> None:
        """Step each run that is not done. An error of one run, which has then failed, is raised after the others'."""
        with ExitStack() as locks:
            for run in sorted(runs, key=id):  # in one order, so that two threads never wait for each other
                locks.enter_context(run.lock)
            active = [run for run in runs if not run.done]
            for run in active:
                run.check_open()
            for run in active:
                run.unshared = ""
            waiting = self._go_on([(run, None) for run in active])
            while waiting:
                waiting = self._go_on([answer for group in self._group(waiting) for answer in self._call(group)])
        self._cache.release(lambda run: run.done or run.failed)
        if self._errors:
            raise next(iter(self._errors.values()))

    def _guard(self, run: OpenRun, action: Callable[..., Any], *arguments: Any) -> Any:
        """The result of an action of a run; None if it fails, which ends that run only."""
        try:
            return action(*arguments)
        except BundleError as error:
            self._errors.setdefault(run, error)
            run.fail(error)
            return None

    def _go_on(self, answers: Sequence[tuple[OpenRun, Results | None]]) -> list[tuple[OpenRun, Operation]]:
        """The next part of the iteration at which each run waits. answers: results of its last part, if it has them."""
        parts = [(run, self._guard(run, run.run_to_part, results)) for run, results in answers]
        return [(run, part) for run, part in parts if part is not None]

    def _group(self, waiting: Sequence[tuple[OpenRun, Operation]]) -> list[Group]:
        groups: list[Group] = []
        for run, operation in waiting:
            call = self._guard(run, self._read_call, run, operation)
            if call is None:
                continue
            part, reasons = self._manifest.parts[operation.node], []
            for group in groups:
                first, first_operation, first_call = group[0]
                if first_operation.node != operation.node:
                    continue
                reason = find_difference(part, first_call, call)
                if not reason and first.sessions.get(operation.node) is not run.sessions.get(operation.node):
                    reason = "the LoRAs differ"
                if not reason:
                    group.append((run, operation, call))
                    break
                reasons.append((reason, first))
            else:
                groups.append([(run, operation, call)])
                for reason, first in reasons:
                    run.unshared, first.unshared = reason, first.unshared or reason
        return groups

    def _read_call(self, run: OpenRun, operation: Operation) -> PartCall:
        with run.computation.naming(operation):
            values = run.computation.read_part_inputs(operation)
            return PartCall.of(operation, self._manifest.parts[operation.node], values)

    def _call(self, group: Group) -> list[tuple[OpenRun, Results | None]]:
        """The results of a part for each run of a group; None for a run that is to call it alone."""
        runs = [run for run, _, _ in group]
        first, operation, _ = group[0]
        if len(group) == 1:
            return [(first, None)]
        part, calls = self._manifest.parts[operation.node], [call for _, _, call in group]
        joined = self._cache.of(operation.node, runs)
        started = time.monotonic()
        try:
            with joined.lock, first.computation.naming(operation), call_for(*(run.still_waits for run in runs)):
                inputs, offsets = joined.join(part, calls)
                if joined.call is None:
                    joined.call = self._make_caller(first.sessions)
                results = joined.call(operation.node, inputs)
                split = split_results(part, calls, results, offsets)
        except BundleError as error:  # such as too little memory for all: each run may still succeed alone
            for run in runs:
                run.unshared = f"the shared call failed: {error}"
            return [(run, None) for run in runs]
        for run in runs:
            run.seconds += time.monotonic() - started
        return [*zip(runs, split, strict=True)]

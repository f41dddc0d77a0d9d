"""The calls of one part in several runs as one call: inputs are joined along the batch, and the results are split."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from operator import is_
from threading import Lock
from typing import Any, TypeAlias
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import BATCH, JOINS, Manifest, Operation, Part, Tensor
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.compute import PartRunner
from guidegraph_runtime.running.walk import Results
from guidegraph_runtime.sessions.broadcasting import Shape, broadcast_shapes, broadcast_to
from guidegraph_runtime.sessions.call_limits import call_for
from guidegraph_runtime.sessions.device_values import as_array_like, to_host
from guidegraph_runtime.sessions.sessions import Session

Array = NDArray[Any]

EARLIER_EXPORT = "it was exported by an earlier guidegraph, whose graphs take one row for all samples: export it again"


@dataclass(frozen=True)
class Joins:
    """How the calls of a part in a loop join. why: the reason why they do not; "" if they do.

    indices: the axis of the tables whose entries an integer value counts, by value. padded: the axes along which zeros
    change nothing.
    """

    why: str = ""
    indices: Mapping[str, str] = field(default_factory=dict)
    padded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, operation: Operation, part: Part) -> Joins:
        """The joins of a part's operation."""
        if JOINS not in operation.settings:
            return cls(why=EARLIER_EXPORT)
        setting: Any = operation.settings[JOINS]
        why, indices, padded = setting.get("why", ""), setting.get("indices", {}), setting.get("padded", [])
        if shared := [tensor.name for tensor in part.outputs if BATCH not in tensor.dims]:
            return cls(why=why or f"it gives '{shared[0]}', which is one value for all samples")
        return cls(why, indices, frozenset(padded))

    def is_table(self, tensor: Tensor) -> bool:
        """Whether an input is a table that an index counts the rows of."""
        return BATCH not in tensor.dims and any(dim in self.indices.values() for dim in tensor.dims)


@dataclass(frozen=True)
class PartCall:
    """One run's call of a part: how such calls join, its inputs by name, and the shape in which the part takes each."""

    joins: Joins
    values: Mapping[str, Any]
    shapes: Mapping[str, Shape]

    @classmethod
    def of(cls, operation: Operation, part: Part, values: Mapping[str, Any]) -> PartCall:
        """The call of an operation of the plan. Raises ``ValueError`` for values that do not fit each other."""
        due = broadcast_shapes(part, {name: as_array_like(value) for name, value in values.items()})
        shapes = {tensor.name: shape for tensor, shape in zip(part.inputs, due, strict=True)}
        return cls(Joins.of(operation, part), values, shapes)


def find_difference(part: Part, a: PartCall, b: PartCall) -> str:
    """The reason why two calls of a part cannot be one; "" if they can."""
    joins = a.joins
    if joins.why:
        return joins.why
    for tensor in part.inputs:
        name = tensor.name
        for dim, size, other in zip(tensor.dims, a.shapes[name], b.shapes[name], strict=True):
            if dim != BATCH and size != other and dim not in joins.padded and dim not in joins.indices.values():
                return f"'{dim}' is {size} in '{name}' of one run and {other} in another"
        if BATCH not in tensor.dims and not joins.is_table(tensor):
            first, second = a.values[name], b.values[name]
            if first is not second and not np.array_equal(to_host(first), to_host(second)):
                return f"'{name}' differs, and the graph takes one for all samples"
    return ""


def describe_joins(manifest: Manifest) -> list[tuple[str, str]]:
    """For each part in a loop, whether unlike runs share its calls, or why each runs alone."""
    lines: list[tuple[str, str]] = []
    for operation in manifest.plan:
        if operation.op != "loop":
            continue
        body = operation.body or ()
        forms = [form for inner in body if inner.op == "part" for form in inner.body or ()]
        for inner in (*body, *forms):
            if inner.op == "loop":
                lines.append((inner.node, "each run alone: it is a loop in a loop"))
            elif inner.op == "part":
                part = manifest.parts[inner.node]
                joins = Joins.of(inner, part)
                shared = [item.name for item in part.inputs if BATCH not in item.dims and not joins.is_table(item)]
                axes = {dim for item in part.inputs for dim in item.dims if isinstance(dim, str)}
                equal = [*sorted(axes - {BATCH} - {*joins.indices.values()} - joins.padded), *shared]
                condition = f", if they agree in {', '.join(equal)}" if equal else ""
                text = f"each run alone: {joins.why}" if joins.why else f"unlike runs share its calls{condition}"
                lines.append((inner.node, text))
    return lines or [("every part", "each run alone: no part is in a loop")]


class JoinedInputs:
    """The joined inputs of one set of calls. An input is kept while its values are the same as in the last call.

    call: runs the part; it keeps on the device what stays the same. lock: to hold while these are used.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Any], list[Shape], Array]] = {}
        self.call: PartRunner | None = None
        self.lock = Lock()

    def join(self, part: Part, calls: Sequence[PartCall]) -> tuple[dict[str, Array], list[int]]:
        """The inputs of all calls as one, by name, and how far the rows of each call's tables moved."""
        joins = calls[0].joins
        tables = [
            (tensor.name, axis)
            for tensor in part.inputs
            if joins.is_table(tensor)
            for axis, dim in enumerate(tensor.dims)
            if dim in joins.indices.values()
        ]
        offsets = [0] * len(calls)
        if tables:
            name, axis = tables[0]
            offsets = [0, *accumulate(call.shapes[name][axis] for call in calls[:-1])]
        return {tensor.name: self._join_tensor(tensor, joins, calls, offsets) for tensor in part.inputs}, offsets

    def _join_tensor(self, tensor: Tensor, joins: Joins, calls: Sequence[PartCall], offsets: Sequence[int]) -> Array:
        name = tensor.name
        sources, shapes = [call.values[name] for call in calls], [call.shapes[name] for call in calls]
        kept = self._kept.get(name)
        is_index = name in joins.indices
        if kept is not None and not is_index and kept[1] == shapes and all(map(is_, kept[0], sources)):
            return kept[2]
        arrays = [
            broadcast_to(tensor, np.asarray(to_host(source)), shape)
            for source, shape in zip(sources, shapes, strict=True)
        ]
        if is_index:
            arrays = [array + array.dtype.type(offset) for array, offset in zip(arrays, offsets, strict=True)]
        joined = _concatenate(tensor, joins, arrays)
        self._kept[name] = sources, shapes, joined
        return joined


def _concatenate(tensor: Tensor, joins: Joins, arrays: Sequence[Array]) -> Array:
    """Arrays of an input along the batch, or along the rows of a table; padded axes are filled up with zeros."""
    axes = [i for i, dim in enumerate(tensor.dims) if dim == BATCH]
    axes = axes or [i for i, dim in enumerate(tensor.dims) if dim in joins.indices.values()]
    if not axes:
        return arrays[0]
    padded = [i for i, dim in enumerate(tensor.dims) if dim in joins.padded]
    longest = {axis: max(array.shape[axis] for array in arrays) for axis in padded}
    filled = []
    for array in arrays:
        missing = [(0, longest.get(axis, size) - size) for axis, size in enumerate(array.shape)]
        filled.append(np.pad(array, missing) if any(count for _, count in missing) else array)
    return np.concatenate(filled, axes[0])


def split_results(
    part: Part, calls: Sequence[PartCall], results: Mapping[str, Any], offsets: Sequence[int]
) -> list[dict[str, Array]]:
    """The results of each call. offsets: how far the rows of its tables had moved."""
    joins = calls[0].joins
    batches = [(tensor.name, tensor.dims.index(BATCH)) for tensor in part.inputs if BATCH in tensor.dims]
    ends = [*accumulate(call.shapes[batches[0][0]][batches[0][1]] if batches else 1 for call in calls)]
    split: list[dict[str, Array]] = [{} for _ in calls]
    for tensor in part.outputs:
        samples = np.split(to_host(results[tensor.name]), ends[:-1], tensor.dims.index(BATCH))
        for call_results, own, offset in zip(split, samples, offsets, strict=True):
            call_results[tensor.name] = own - own.dtype.type(offset) if tensor.name in joins.indices else own
    return split


class JoinCache:
    """The joined inputs of the last few sets of runs, by part and runs, for as long as these runs exist."""

    SIZE = 8

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, tuple[ref[Any], ...]], JoinedInputs] = OrderedDict()
        self._lock = Lock()

    def of(self, part: str, runs: Sequence[Any]) -> JoinedInputs:
        """The joined inputs of a part for runs, in this order; they are new if they were not used lately."""
        key = part, tuple(map(ref, runs))
        with self._lock:
            entry = self._entries.pop(key, None) or JoinedInputs()
            self._entries[key] = entry
            while len(self._entries) > self.SIZE:
                self._entries.popitem(last=False)
            return entry

    def release(self, ended: Callable[[Any], bool]) -> None:
        """Release what belongs to a run that has ended or no longer exists. ended: whether a run has."""
        with self._lock:
            for key in [*self._entries]:
                runs = [reference() for reference in key[1]]
                if any(run is None or ended(run) for run in runs):
                    del self._entries[key]


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

"""Run a bundle: ``Bundle(path).run(prompt="…")``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.allowed_files import check_plan
from guidegraph_runtime.bundle.manifest_types import ADAPTABLE_TABLE, TABLES, Manifest, Operation, walk_operations
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.lora.apply import adapt_weights, match_layers
from guidegraph_runtime.lora.lora_files import Lora, read_loras
from guidegraph_runtime.open_runs.joined_calls import JoinCache, TogetherStep
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.choices import has_choices
from guidegraph_runtime.running.compute import Computation, PartRunner, Progress, refuse_part
from guidegraph_runtime.running.inputs import load_value, resolve_inputs
from guidegraph_runtime.running.operation_order import select_operations
from guidegraph_runtime.running.overrides import NodeOverrides, find_overrides, override_settings
from guidegraph_runtime.running.rehearse import UNKNOWN, Demand, Rehearsal
from guidegraph_runtime.running.tensor_inputs import read_tables
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.broadcasting import broadcast
from guidegraph_runtime.sessions.device_runner import CudaGraphs, DeviceRunner
from guidegraph_runtime.sessions.device_values import DeviceValue, to_host
from guidegraph_runtime.sessions.sessions import Session, SessionSettings, check_provider, make_session

Array = NDArray[Any]


@dataclass
class Timings:
    """Seconds spent opening and checking the bundle, creating the sessions, and in the calls of each part."""

    opening: float = 0.0
    sessions: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    _lock: AbstractContextManager[Any] = field(default_factory=RLock, repr=False, compare=False)

    def add_call(self, part: str, seconds: float) -> None:
        """Count a call of a part. Runs in several threads may share a bundle."""
        with self._lock:
            self.parts[part] = self.parts.get(part, 0.0) + seconds
            self.calls[part] = self.calls.get(part, 0) + 1


@dataclass(frozen=True)
class Prepared:
    """A checked run: the plan's value for each output, the plan, the inputs, the values computed so far, its demand."""

    sources: Mapping[str, str]
    plan: Sequence[Operation]
    values: Mapping[str, Any]
    ready: Mapping[str, Mapping[str, Any]]
    demand: Demand


class Bundle:
    """A checked bundle with a session for each part, created on first use.

    path: the bundle's folder. settings: the providers and threads; by default the first available provider.
    Raises ``BundleError`` for a bundle that is incomplete or does not match its manifest.
    """

    def __init__(self, path: str | os.PathLike[str], settings: SessionSettings | None = None) -> None:
        started = time.perf_counter()
        self._verified = open_bundle(path)
        self.settings = settings or SessionSettings.on()
        self.timings = Timings(opening=time.perf_counter() - started)
        self.where = os.fspath(path)
        check_plan(self._verified.manifest, self.where)
        self._sessions: dict[str, Session] = {}
        self._adapted: tuple[Any, dict[str, Session]] = ((), {})
        self._tables = {}
        if TABLES in self.manifest.files:
            self._tables = read_tables(self._verified.data(TABLES), f"{self.where}/{TABLES}")
        self._graphs = CudaGraphs()
        self._joined = JoinCache()
        self._session_lock = RLock()
        # CUDA graphs use tensors at fixed addresses, so runs in other threads wait for this lock.
        self._turn: AbstractContextManager[Any] = RLock() if self.settings.cuda_graph else nullcontext()

    @property
    def manifest(self) -> Manifest:
        """The contents of `bundle.json`."""
        return self._verified.manifest

    @property
    def digest(self) -> str:
        """The sha256 that identifies this bundle: of `bundle.json`, which contains the hashes of all files."""
        return self._verified.digest

    def load_value(self, name: str, value: Any) -> Any:
        """Convert an input's default or reference value for `run`: names of the bundle's files become their bytes."""
        return load_value(self.manifest.inputs[name], value, self._verified.data)

    def file(self, name: str) -> bytes:
        """The bytes of a file of the bundle."""
        return self._verified.data(name)

    def release_graphs(self) -> None:
        """Release the bytes of all graphs and weights: after that, the bundle still checks runs."""
        parts = self.manifest.parts.values()
        self._verified.release({name for part in parts for name in (part.file, *part.externals)})

    def check_outputs(self, only: Sequence[str] | None) -> list[str]:
        """The names of the selected outputs, by default all. Raises ``BundleError`` for an unknown name."""
        names = list(dict.fromkeys(self.manifest.outputs if only is None else only))
        if unknown := [name for name in names if name not in self.manifest.outputs]:
            message = f"no output '{unknown[0]}'; {suggest_name(unknown[0], self.manifest.outputs)}"
            raise BundleError(self.where, "unknown-output", message)
        return names

    def session(self, part: str) -> Session:
        """The session of a part."""
        if part not in self._sessions:
            with self._session_lock:
                if part not in self._sessions:
                    started = time.perf_counter()
                    session = make_session(self._verified, part, self.settings)
                    self._sessions[part] = session
                    self._release(part)
                    self.timings.sessions += time.perf_counter() - started
        return self._sessions[part]

    def _release(self, part: str) -> None:
        """Release the bytes that the session of a part has copied, except those that another session needs."""
        if ADAPTABLE_TABLE in self.manifest.files:
            return  # sessions with LoRAs are built from these
        parts = self.manifest.parts
        waiting = [other for name, other in parts.items() if name not in self._sessions]
        needed_files = {name for other in waiting for name in (other.file, *other.externals)}
        self._verified.release({parts[part].file, *parts[part].externals} - needed_files)

    def read_loras(self, loras: Any) -> tuple[Lora, ...]:
        """Read LoRAs as ``run_with`` takes them, and check that they fit the weights of this bundle.

        ``run_with`` takes what this returns, and reads no file again. Raises ``BundleError``.
        """
        checked_loras = read_loras(loras, self.where)
        match_layers(self._verified, checked_loras)
        return checked_loras

    def sessions_with_lora(self, loras: Sequence[Lora]) -> Mapping[str, Session]:
        """The sessions of the parts that LoRAs change; the last set is cached. Raises ``BundleError``."""
        key = tuple((lora.digest, lora.strength) for lora in loras)
        with self._turn, self._session_lock:  # in the order of a run, which makes sessions in its turn
            if self._adapted[0] != key:
                started = time.perf_counter()
                self._graphs.retire(self._adapted[1].values())
                self._adapted = (), {}  # keep one set of weights only
                weights = adapt_weights(self._verified, loras)
                sessions = {part: make_session(self._verified, part, self.settings, weights[part]) for part in weights}
                self._adapted = key, sessions
                self.timings.sessions += time.perf_counter() - started
            return self._adapted[1]

    def run(self, /, **params: Any) -> dict[str, Array]:
        """Run; return the outputs by name as arrays: an image is (B, 3, H, W), float32 in [-1, 1]. See ``run_with``.

        Input arrays are copied when the run starts; output arrays belong to the caller.
        """
        return self.run_with(params)

    def run_with(
        self,
        params: Mapping[str, Any],
        *,
        nodes: Mapping[str, Any] | None = None,
        lora: Any = (),
        only: Sequence[str] | None = None,
        prepared: Prepared | None = None,
        on_output: Callable[[str, Array], None] | None = None,
        finished: Callable[[Operation, float], None] | None = None,
        progress: Progress | None = None,
        observer: Callable[[str, Mapping[str, Array], Mapping[str, Array]], None] | None = None,
    ) -> dict[str, Array]:
        """Run; return the outputs by name.

        params: values of the bundle's inputs; omitted ones take their defaults. nodes: overrides of the plan's host
        operations: ``node.setting`` sets a setting, and ``node.use`` replaces the operation, for example by another
        sampler. lora: LoRA files, or folders written by peft, that are added to the weights for this run: a path,
        ``path:strength``, (path, strength), a list of these, or the result of `read_loras`. only: the outputs to
        compute. prepared: the result of `prepare`, instead of params, nodes and only. on_output: called with each
        output as soon as it is ready. finished: called with each operation outside loops and its seconds. progress:
        called after each iteration of a loop. observer: called with the inputs and outputs of each part. Raises
        ``BundleError`` for invalid arguments, before anything runs if possible, and the errors of these callbacks.
        """
        run = self._open(params, nodes, lora, only, prepared)
        started = time.monotonic()
        began = time.perf_counter()
        results: Mapping[str, Any] | None = None
        with self._turn:
            while (pause := run.advance(results)) is not None:
                operation, results = pause.operation, None
                if pause.kind == "part" and observer is not None:
                    with run.computation.naming(operation):
                        values = run.computation.read_part_inputs(operation)
                        results = run.computation.run_part(operation.node, values)
                        part = self.manifest.parts[operation.node]
                        inputs = broadcast(part, {name: to_host(item) for name, item in values.items()})
                        copies = _copies(inputs), _copies(results)
                    observer(operation.node, *copies)
                elif pause.kind == "iteration" and pause.count and progress is not None:
                    progress(operation.node, pause.count, pause.total)
                elif pause.kind == "done" and not pause.depth:
                    if finished is not None:
                        finished(operation, time.perf_counter() - began)
                    for name, source in run.sources.items():
                        if source in operation.outputs and on_output is not None:
                            on_output(name, run.outputs[name])
                    began = time.perf_counter()
                run.seconds = time.monotonic() - started  # also of the callbacks
        return run.list_outputs()

    def part_caller(self, lora_sessions: Mapping[str, Session]) -> PartRunner:
        """A function that runs parts for one run or for joined ones, with these sessions for those that LoRAs change.

        Between its calls, inputs that stay the same values stay on the device.
        """
        on_device = DeviceRunner(self._graphs) if self.settings.providers[0].device != "cpu" else None

        def call(part: str, values: Mapping[str, Any]) -> Mapping[str, Array | DeviceValue]:
            inputs = broadcast(self.manifest.parts[part], values) if on_device is None else {}
            session = lora_sessions[part] if part in lora_sessions else self.session(part)
            started = time.perf_counter()
            results = session.run(inputs) if on_device is None else on_device(session, values)
            self.timings.add_call(part, time.perf_counter() - started)
            return results

        return call

    def start(self, /, **params: Any) -> OpenRun:
        """Begin a run, and hold it before the first iteration of its first loop. See ``start_with``."""
        return self.start_with(params)

    def start_with(
        self,
        params: Mapping[str, Any],
        *,
        nodes: Mapping[str, Any] | None = None,
        lora: Any = (),
        only: Sequence[str] | None = None,
        prepared: Prepared | None = None,
    ) -> OpenRun:
        """Begin a run, to be moved on by ``step`` and ended by its ``finish``. It takes the arguments of ``run_with``.

        It runs what comes before the first loop: tokens, the sampler's table, noise, encoders. Runs may be started and
        stepped in several threads. Raises ``BundleError``.
        """
        run = self._open(params, nodes, lora, only, prepared)
        with self._turn:
            run.run_to_loop()
        return run

    def _open(
        self,
        params: Mapping[str, Any],
        nodes: Mapping[str, Any] | None,
        lora: Any,
        only: Sequence[str] | None,
        prepared: Prepared | None,
    ) -> OpenRun:
        """Prepare a run, and do not begin it. It takes the arguments of ``run_with``."""
        checked = prepared or self.prepare(params, nodes, only)
        lora_sessions = self.sessions_with_lora(read_loras(lora, self.where)) if lora else {}
        call, values = self.part_caller(lora_sessions), self._start(checked.values)
        computation = Computation(self.where, call, self._verified.data, values, ready=checked.ready)
        return OpenRun(self, computation, checked.plan, checked.sources, lora_sessions, self._turn)

    def step(self, runs: Sequence[OpenRun]) -> None:
        """Move each run on by one iteration of its loop; runs that are done stay as they are.

        Runs at the same part share one call of its graph. Each has a call of its own if the graph does not allow it, if
        the runs differ in a value for all samples, or if the shared call fails: ``run.unshared`` says why. If a run
        fails, the others are stepped, and its ``BundleError`` is raised.
        """
        if any(run.owner is not self for run in runs):
            raise BundleError(self.where, "bad-value", "a run of another bundle cannot be stepped here")
        if len({*map(id, runs)}) < len(runs):
            raise BundleError(self.where, "bad-value", "a run is listed twice: list each once")
        with self._turn:
            TogetherStep(self.manifest, self._joined, self.part_caller).run(runs)

    def prepare(
        self,
        params: Mapping[str, Any],
        nodes: Mapping[str, Any] | None = None,
        only: Sequence[str] | None = None,
    ) -> Prepared:
        """Check a run, and compute the host operations that need no graph. See ``run_with`` for the arguments.

        It needs no provider, so a machine without a GPU can check the runs of others. Raises ``BundleError`` with the
        expected value, the actual one and a remedy.
        """
        sources = {name: self.manifest.outputs[name].source for name in self.check_outputs(only)}
        values = resolve_inputs(self.manifest, params, self.where, self._verified.data)
        plan = select_operations(override_settings(self.manifest.plan, nodes or {}, self.where), [*sources.values()])
        rehearsal = self._rehearse(plan, values, [*sources.values()])
        return Prepared(sources, plan, values, rehearsal.made, rehearsal.measure(self._start(values)))

    def check_provider(self, prepared: Prepared) -> None:
        """Raise ``BundleError`` if a run has parts, and the bundle needs other providers for them than this one's."""
        if part := next((operation.node for operation in walk_operations(prepared.plan) if operation.op == "part"), ""):
            check_provider(self._verified, part, self.settings)

    def offers(self) -> list[NodeOverrides]:
        """The nodes of the plan whose settings or operation can be overridden in a run with the defaults."""
        inputs = {name: spec for name, spec in self.manifest.inputs.items() if not spec.required}
        values = {name: self.load_value(name, spec.default) for name, spec in inputs.items()}
        plan, targets = self.manifest.plan, [spec.source for spec in self.manifest.outputs.values()]
        start_values = {**dict.fromkeys(self.manifest.inputs, UNKNOWN), **values}

        def is_admitted(nodes: Mapping[str, Any]) -> bool:
            try:
                self._rehearse(override_settings(plan, nodes, self.where), start_values, targets)
            except BundleError:
                return False
            return True

        defaults = {f"params.{name}": spec.default for name, spec in inputs.items()}
        return list(find_overrides(plan, defaults, is_admitted))

    def _rehearse(self, plan: Sequence[Operation], values: Mapping[str, Any], targets: Sequence[str]) -> Rehearsal:
        start_values = self._start(values)
        rehearsal = Rehearsal(self.where, refuse_part, self._verified.data, start_values, parts=self.manifest.parts)
        rehearsal.run(plan, targets if has_choices(plan) else None)
        return rehearsal

    def _start(self, values: Mapping[str, Any]) -> Values:
        return Values({**self._tables, **{f"params.{name}": value for name, value in values.items()}})


def _copies(values: Mapping[str, Any]) -> dict[str, Array]:
    """Copy arrays for a caller outside the run."""
    return {name: np.array(to_host(value)) for name, value in values.items()}

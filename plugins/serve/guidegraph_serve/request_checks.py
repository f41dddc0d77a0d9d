"""Checks of a request before it is queued, by the bundle's schema, its plan and the server's limits.

Warnings about a request, such as unknown words of its prompt, are for its client and not for the server's log.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from guidegraph_runtime.allowed_files import takes_file
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, PICTURE_TYPES, Input
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.limits import LimitExceeded, current_limits, enforce_limits
from guidegraph_runtime.machine.memory import show_size
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.running.inputs import check_value, find_spec
from guidegraph_runtime.running.overrides import host_operations
from guidegraph_runtime.sessions.call_limits import default_memory
from guidegraph_serve.jobs import DrawRequest, RequestRefused, ServeOptions, describe_steps, drop_remedy
from guidegraph_serve.shelf import ShelfEntry
from guidegraph_serve.uploads import SENT_TYPES, check_picture

_collected: ContextVar[list[str] | None] = ContextVar("guidegraph_serve_warnings", default=None)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """The texts of the warnings of the block, in a process where ``show_collected`` was called."""
    texts: list[str] = []
    token = _collected.set(texts)
    try:
        yield texts
    finally:
        _collected.reset(token)


def show_collected(show_other: Callable[[str], object]) -> None:
    """From now on, give warnings to ``collect_warnings``, and those outside of its blocks to ``show_other``.

    Each is shown each time, so that Python does not remember all texts that it has shown.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        texts = _collected.get()
        if texts is None:
            show_other(str(message))
        elif str(message) not in texts:
            texts.append(str(message))

    warnings.simplefilter("always", UserWarning)
    warnings.showwarning = show


PRIORITIES = range(-10, 11)
FLOAT_BYTES = 4
MAX_TABLE_STEPS = 10_000
"""The longest table of a sampler or schedule that is computed to check a request, if no more steps are allowed."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request that may be queued. seconds: from its arrival to its end. warnings: for its client."""

    prepared: Prepared
    seconds: float
    warnings: Sequence[str]


class RequestChecks:
    """The checks of requests to some bundles. limits: of each run. call_memory: bytes of the calls of all graphs."""

    def __init__(self, entries: Mapping[str, ShelfEntry], options: ServeOptions):
        self.entries, self.options = entries, options
        limits = current_limits()
        self.call_memory = limits.memory_bytes or default_memory()
        self.limits = replace(
            limits,
            steps=min(limits.steps, max(MAX_TABLE_STEPS, options.steps)),
            seconds=min(limits.seconds or options.seconds, options.seconds),
            call_seconds=min(limits.call_seconds or options.seconds, options.seconds),
            pixels=min(limits.pixels, options.pixels),
            elements=min(limits.elements, options.run_memory // FLOAT_BYTES),
        )

    def find_entry(self, name: str) -> ShelfEntry:
        """A bundle by its name on this server, or by a unique one of its manifest. Raises ``RequestRefused``."""
        if name in self.entries:
            return self.entries[name]
        namesakes = [entry for entry in self.entries.values() if entry.manifest.name == name]
        if len(namesakes) != 1:
            message = f"there is no bundle '{name[:80]}'; {suggest_name(name, self.entries)}"
            raise RequestRefused(message, "model", "unknown-bundle", 404)
        return namesakes[0]

    def check(self, request: DrawRequest) -> CheckedRequest:
        """Check a request, and compute its tokens and tables. Raises ``RequestRefused``."""
        entry = self.find_entry(request.bundle)
        if request.priority not in PRIORITIES:
            ends = f"{PRIORITIES[0]} to {PRIORITIES[-1]}"
            raise RequestRefused(f"expected a priority from {ends}, found {request.priority!r:.40}", "priority")
        seconds = self.options.seconds if request.deadline is None else request.deadline
        if not 0 < seconds <= self.options.seconds:
            message = f"expected a deadline above 0 and up to {self.options.seconds:g} seconds, found {seconds!r:.40}"
            raise RequestRefused(message, "deadline")
        inputs, limit = entry.manifest.inputs, self.options.body_bytes  # of a body without files
        is_file = {name: name in inputs and inputs[name].type in FILE_TYPES for name in request.params}
        plain = {name: value for name, value in request.params.items() if not is_file[name]}
        if len(json.dumps([plain, request.nodes], default=str)) > limit:
            message = f"expected at most {limit} bytes of parameters beside files"
            raise RequestRefused(message, None, "too-large", 413)
        with collect_warnings() as warnings:
            return CheckedRequest(self._prepare(entry, request), seconds, warnings)

    def _prepare(self, entry: ShelfEntry, request: DrawRequest) -> Prepared:
        params: dict[str, Any] = {}
        for name, value in request.params.items():
            try:
                spec = find_spec(entry.manifest, name, entry.name)
                if spec.type in FILE_TYPES:
                    self._check_file(name, spec, value)
                params[name] = check_value(name, spec, value, entry.name)
            except BundleError as error:
                raise RequestRefused(error.message, name, error.code) from error
        nodes = request.nodes or {}
        operations = {operation.node: operation.op for operation in host_operations(entry.manifest.plan)}
        for name in nodes:  # a request may read no file
            node, _, setting = name.rpartition(".")
            uses = {operations.get(node, ""), str(nodes.get(f"{node}.use", ""))}
            if any(takes_file(operation, setting) for operation in uses):
                raise RequestRefused(f"'{name}' names a file, and this server takes no files", name, "forbidden-read")
        try:
            with enforce_limits(self.limits):
                prepared = entry.checks.prepare(params, nodes)
        except BundleError as error:
            cause = error.__cause__
            if isinstance(cause, LimitExceeded) and cause.limit == "steps":  # the table, which comes before the loop
                message = describe_steps(int(cause.amount), self.options.steps)
                raise RequestRefused(message, error.param, error.code) from error
            raise RequestRefused(drop_remedy(error.message), error.param, error.code) from error
        self._check_demand(entry, prepared, nodes)
        return prepared

    def _check_file(self, name: str, spec: Input, value: Any) -> None:
        """Raise ``RequestRefused`` unless a file is the bytes of a picture or tensor: a path is never read."""
        files = value if isinstance(value, list) and spec.many else [value]
        if spec.type not in SENT_TYPES:
            message = f"'{name}' is a file that no request may send ({spec.type}): leave it out"
            raise RequestRefused(message, name, "forbidden-read")
        if value is None and spec.takes_null:
            return
        if not files or not all(isinstance(file, bytes) for file in files):
            message = f"'{name}': expected the contents of a file ({spec.type}), found {value!r:.80}"
            raise RequestRefused(message, name, "forbidden-read")
        if spec.type in PICTURE_TYPES:
            with enforce_limits(self.limits):
                for file in files:
                    check_picture(name, file)

    def _check_demand(self, entry: ShelfEntry, prepared: Prepared, nodes: Mapping[str, Any]) -> None:
        demand, options = prepared.demand, self.options
        if demand.samples > options.batch:
            message = f"it draws {demand.samples} samples at once, and this server allows {options.batch}"
            raise RequestRefused(message, _find_param(entry, nodes, "batch"), "over-limit")
        if demand.steps > options.steps:
            message = describe_steps(demand.steps, options.steps)
            raise RequestRefused(message, _find_param(entry, nodes, "steps"), "over-limit")
        if demand.call_bytes > self.call_memory:
            needed, allowed = show_size(demand.call_bytes), show_size(self.call_memory)
            message = f"its largest call takes about {needed}, and this server allows {allowed}: ask for a smaller size"
            raise RequestRefused(message, _find_param(entry, nodes, "shape"), "over-limit", 413)
        if demand.nbytes > options.run_memory:
            message = f"its values take {demand.nbytes} bytes, and this server allows {options.run_memory}"
            raise RequestRefused(message, code="over-limit")


def _find_param(entry: ShelfEntry, nodes: Mapping[str, Any], setting: str) -> str | None:
    """What sets a demand: the largest override of the setting in ``nodes``, or else the input of its name."""
    overrides = {name: value for name, value in nodes.items() if name.rpartition(".")[2] == setting}
    sizes = {name: value if isinstance(value, int) else 0 for name, value in overrides.items()}
    return max(sizes, key=lambda name: sizes[name], default=setting if setting in entry.manifest.inputs else None)

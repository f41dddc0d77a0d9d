"""Checks of a request before it is queued: by the bundle's schema, its plan, and the server's limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidegraph_runtime.allowed_files import takes_file
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.limits import current_limits, enforce_limits
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.running.inputs import check_value, find_spec
from guidegraph_runtime.running.overrides import host_operations
from guidegraph_runtime.serve.options import ServeOptions
from guidegraph_runtime.serve.shelf import ShelfEntry
from guidegraph_runtime.serve.warning_texts import collect_warnings

PRIORITIES = range(-10, 11)
MAX_TABLE_STEPS = 10_000
"""The longest table of a sampler or schedule that is computed to check a request, if no more steps are allowed."""
RAISE_IT = re.compile(r"\. If that is right, raise it.*")
"""The end of a message about a limit, which tells the person who may raise it."""


@dataclass(frozen=True)
class DrawRequest:
    """A request to a bundle.

    nodes: overrides by ``node.setting``. deadline: seconds from now; None for the longest. is_watched: whether anybody
    may look at its previews: the id of a job that is waited for is not known before its end. work: its iterations times
    its samples, by which a front chooses a replica.
    """

    bundle: str
    params: Mapping[str, Any]
    nodes: Mapping[str, Any] | None = None
    priority: int = 0
    deadline: float | None = None
    is_watched: bool = False
    work: int = 1


class RequestRefused(Exception):
    """A request that is not queued. status: of the answer over HTTP. param: the parameter that is wrong.

    retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str = "bad-request", status: int = 400, retry_after: int = 0
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.retry_after = message, param, code, status, retry_after


@dataclass(frozen=True)
class CheckedRequest:
    """A request that may be queued. seconds: from its arrival to its end. warnings: for its client."""

    prepared: Prepared
    seconds: float
    warnings: Sequence[str]


class RequestChecks:
    """The checks of requests to some bundles. limits: of each run."""

    def __init__(self, entries: Mapping[str, ShelfEntry], options: ServeOptions):
        self.entries, self.options = entries, options
        limits = current_limits()
        self.limits = replace(
            limits,
            steps=min(limits.steps, max(MAX_TABLE_STEPS, options.steps)),
            seconds=min(limits.seconds or options.seconds, options.seconds),
            call_seconds=min(limits.call_seconds or options.seconds, options.seconds),
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
        entry, seconds = self.find_entry(request.bundle), self._check_terms(request)
        with collect_warnings() as warnings:
            return CheckedRequest(self._prepare(entry, request), seconds, warnings)

    def _check_terms(self, request: DrawRequest) -> float:
        """The seconds that the request may take. Raises ``RequestRefused``."""
        if request.priority not in PRIORITIES:
            ends = f"{PRIORITIES[0]} to {PRIORITIES[-1]}"
            raise RequestRefused(f"expected a priority from {ends}, found {request.priority!r:.40}", "priority")
        seconds = self.options.seconds if request.deadline is None else request.deadline
        if not 0 < seconds <= self.options.seconds:
            message = f"expected a deadline above 0 and up to {self.options.seconds:g} seconds, found {seconds!r:.40}"
            raise RequestRefused(message, "deadline")
        return seconds

    def _prepare(self, entry: ShelfEntry, request: DrawRequest) -> Prepared:
        params = {name: self._check_param(entry, name, value) for name, value in request.params.items()}
        nodes = request.nodes or {}
        _check_nodes(entry, nodes)
        try:
            with enforce_limits(self.limits):
                prepared = entry.checks.prepare(params, nodes)
        except BundleError as error:
            message = RAISE_IT.sub("", error.message)
            raise RequestRefused(message, error.param, error.code) from error
        self._check_demand(entry, prepared, nodes)
        return prepared

    def _check_param(self, entry: ShelfEntry, name: str, value: Any) -> Any:
        try:
            spec = find_spec(entry.manifest, name, entry.name)
            if spec.type in FILE_TYPES:
                message = f"'{name}' is a file ({spec.type}), and this server takes no files: leave it out"
                raise RequestRefused(message, name, "forbidden-read")
            return check_value(name, spec, value, entry.name)
        except BundleError as error:
            raise RequestRefused(error.message, name, error.code) from error

    def _check_demand(self, entry: ShelfEntry, prepared: Prepared, nodes: Mapping[str, Any]) -> None:
        demand, options = prepared.demand, self.options
        if demand.samples > options.batch:
            message = f"it draws {demand.samples} samples at once, and this server allows {options.batch}"
            raise RequestRefused(message, _find_param(entry, nodes, "batch"), "over-limit")
        if demand.steps > options.steps:
            message = f"it takes {demand.steps} steps, and this server allows {options.steps}"
            raise RequestRefused(message, _find_param(entry, nodes, "steps"), "over-limit")
        if demand.nbytes > options.run_memory:
            message = f"its values take {demand.nbytes} bytes, and this server allows {options.run_memory}"
            raise RequestRefused(message, code="over-limit")


def _find_param(entry: ShelfEntry, nodes: Mapping[str, Any], setting: str) -> str | None:
    """What sets a demand: the largest override of the setting in ``nodes``, or else the input of its name."""
    overrides = {name: value for name, value in nodes.items() if name.rpartition(".")[2] == setting}
    sizes = {name: value if isinstance(value, int) else 0 for name, value in overrides.items()}
    return max(sizes, key=lambda name: sizes[name], default=setting if setting in entry.manifest.inputs else None)


def _check_nodes(entry: ShelfEntry, nodes: Mapping[str, Any]) -> None:
    """Refuse overrides of settings that name files: a request may read none."""
    operations = {operation.node: operation.op for operation in host_operations(entry.manifest.plan)}
    for name in nodes:
        node, _, setting = name.rpartition(".")
        uses = {operations.get(node, ""), str(nodes.get(f"{node}.use", ""))}
        if any(takes_file(operation, setting) for operation in uses):
            raise RequestRefused(f"'{name}' names a file, and this server takes no files", name, "forbidden-read")

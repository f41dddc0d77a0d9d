"""A run into a folder: its outputs, written as they become ready, and ``run.json``.

The files that the nodes of a run write outside of its folder, from Python's audit events.

Only files that Python opens are seen, in the threads of the run. Libraries in other languages, such as safetensors, and
other processes go unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Observer
from guidegraph.graph.ir import Graph
from guidegraph.graph.node import Registry
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.loop_state import LoopStopped, StopToken
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.recipe import Recipe, find_seeds, recipe_params
from guidegraph.runs.record import RunRecord, collect_versions
from guidegraph.runs.stopped_run import StoppedRun, make_stopped_run, strip_folders

if TYPE_CHECKING:
    from guidegraph.graph.execution.cache import MemoryCache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache


class RecordedRun:
    """One run of a validated graph with checked values into an existing folder; ``writer`` lists its files.

    earlier: the stopped run that it goes on from, checked by ``check_stopped_run``. stopped: the run as it was stopped,
    with its file in the folder.
    """

    def __init__(
        self,
        graph: Graph,
        registry: Registry,
        values: Mapping[str, Any],
        config: RunConfig,
        folder: Path,
        earlier: StoppedRun | None = None,
    ):
        folder = folder.absolute()  # a node may change the current directory
        if config.policy.out is None:
            config = replace(config, policy=replace(config.policy, out=folder))
        self.graph, self.values, self.config, self.folder = graph, values, config, folder
        self.earlier = earlier
        self.stopped: StoppedRun | None = None
        segments = earlier.list_segments(graph, values, config.only) if earlier else []
        resumed = {**earlier.describe(), "segments": segments} if earlier else None
        recipe = Recipe(
            graph.file,
            dict(graph.sources),
            recipe_params(values),
            None if config.only is None else [*config.only],
            config.dtype,
            seeds=find_seeds(graph, values),
            versions=collect_versions(registry, config.accelerate),
            resumed={**earlier.describe(), "segments": strip_folders(segments, graph)}
            if earlier and segments
            else None,
        )
        self.writer = OutputWriter(
            graph, registry, folder, lambda name, i, batch: replace(recipe, output=name, index=i, batch=batch).text()
        )
        self._record = RunRecord(graph, values, config, recipe, self.writer, resumed=resumed)

    def run(
        self,
        observers: Sequence[Observer],
        cancel: CancelToken,
        memory: MemoryCache | None = None,
        stop: StopToken | None = None,
    ) -> None:
        """Raises the errors of ``graph.execution.run`` and of the writer; the record has the status in every case.

        If the run is stopped, the file to go on from is written before ``LoopStopped`` leaves.
        """
        from guidegraph.graph.execution.run import Attachments, run

        attachments = Attachments(
            memory,
            [self._record, *observers],
            cancel,
            self.writer,
            self.writer.preview,
            stop=stop or StopToken(),
            resume=self.earlier.state if self.earlier else None,
        )
        own_folders = [self.folder, *([self.config.cache] if self.config.cache else [])]
        with self._record.keep(self.folder), record_outside_writes(own_folders, self._record.written_outside):
            try:
                run(self.graph, self.values, self.config, attachments)
            except LoopStopped as error:
                stopped = make_stopped_run(self.graph, self.values, self.config, error.state, self.earlier)
                file = self.folder / stopped.name_file()
                stopped.save(file)
                self.stopped = replace(stopped, file=str(file))
                self._record.stopped = self.stopped.describe()
                raise
            self.writer.raise_failures()


WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND
MOST = 100
"""How many files are recorded."""

_recorded: ContextVar[dict[str, None] | None] = ContextVar("guidegraph_outside_writes", default=None)


@contextmanager
def record_outside_writes(allowed: Sequence[Path], listed: list[str]) -> Iterator[None]:
    """Append the files that the block writes, and that still exist when it ends, to a list.

    allowed: folders that do not count, besides the user's caches, compiled code and devices.
    """
    _install_hook()
    written: dict[str, None] = {}
    token = _recorded.set(written)
    try:
        yield
    finally:
        _recorded.reset(token)
        caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # there may be no home
        ignored = [*map(os.path.realpath, (*allowed, caches)), "/dev", "/proc"]
        kept = []
        for path in filter(os.path.lexists, written):
            real = Path(os.path.realpath(path))
            is_compiled = any(part == "__pycache__" or part.startswith("torchinductor_") for part in real.parts)
            if not is_compiled and not any(real.is_relative_to(folder) for folder in ignored):
                kept.append(path)
        listed += kept[:MOST]


@cache
def _install_hook() -> None:
    """Install the hook, which cannot be removed; it does nothing outside of runs."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "os.link", "os.symlink"):
        return
    written = _recorded.get()
    if written is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if not (any(letter in mode for letter in "wax+") if mode else flags & WRITING):
            return
    else:
        path = arguments[1]
    if isinstance(path, (str, bytes, os.PathLike)) and len(written) < 100 * MOST:
        with suppress(OSError, ValueError):  # the current folder was removed
            written[os.path.abspath(os.fsdecode(path))] = None

"""A run into a folder: its outputs, written as they become ready, and ``run.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled
from guidegraph.graph.events import Observer
from guidegraph.graph.ir import Graph
from guidegraph.graph.planning.passes import ALL_PASSES
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.recipe import Recipe, find_seeds, recipe_params
from guidegraph.runs.record import RunRecord, collect_versions
from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.machine.termination import before_exit

if TYPE_CHECKING:
    from guidegraph.graph.execution.cache import MemoryCache
    from guidegraph.graph.planning.plan import Plan


@dataclass(frozen=True)
class Job:
    """A run to make: a validated graph, checked values and run settings. ``cache`` is the folder of the disk cache."""

    graph: Graph
    registry: Registry
    values: Mapping[str, Any]
    only: list[str] | None = None
    device: str = "cpu"
    dtype: str = "float32"
    passes: frozenset[str] = ALL_PASSES
    cache: Path | None = None
    memory_budget: int | None = None
    policy: Policy = OWN_WORKFLOW


class RecordedRun:
    """One run of a job into an existing folder; ``writer`` lists its files."""

    def __init__(self, job: Job, folder: Path):
        folder = folder.absolute()  # a node may change the current directory
        if job.policy.out is None:
            job = replace(job, policy=replace(job.policy, out=folder))
        self.job, self.folder = job, folder
        graph, values, package_versions = job.graph, job.values, collect_versions(job.registry)
        recipe = Recipe(
            graph.file,
            dict(graph.sources),
            recipe_params(values),
            job.only,
            job.dtype,
            seeds=find_seeds(graph, values),
            versions=package_versions,
        )
        self.writer = OutputWriter(
            graph,
            job.registry,
            folder,
            lambda name, i, batch: replace(recipe, output=name, index=i, batch=batch).text(),
        )
        options = {
            "device": job.device,
            "dtype": job.dtype,
            "passes": sorted(job.passes),
            "cache": str(job.cache) if job.cache else None,
            "memory_budget": job.memory_budget,
            "only": job.only,
        }
        self._record = RunRecord(graph, values, options, package_versions, self.writer.files, self.writer.previews)

    def run(
        self,
        observers: Sequence[Observer],
        cancel: CancelToken,
        memory: Callable[[Plan], MemoryCache] | None = None,
    ) -> None:
        """Run the job. ``memory`` returns the in-process cache for a plan.

        Raises what ``graph.run`` and the writer raise; the record has the status in every case.
        """
        from guidegraph.graph.execution.cache import DiskCache
        from guidegraph.graph.execution.run import RunOptions, run_plan
        from guidegraph.graph.planning.plan import compile_plan

        job = self.job
        with self._keep_record(), before_exit(self._record_exit):
            device_key = f"{job.device} {job.dtype}"
            plan = compile_plan(
                job.graph, job.values, place=device_key, passes=job.passes, only=job.only, policy=job.policy
            )
            options = RunOptions(
                device=job.device,
                dtype=job.dtype,
                passes=job.passes,
                memory=memory(plan) if memory else None,
                disk=DiskCache(job.cache.absolute()) if job.cache else None,
                observers=[self._record, *observers],
                cancel=cancel,
                only=job.only,
                on_output=self.writer,
                on_preview=self.writer.preview,
                memory_budget=job.memory_budget,
                policy=job.policy,
            )
            run_plan(plan, options)

    def _record_exit(self) -> None:
        """Record that the process ended during the run."""
        self._record.write(self.folder, "cancelled", "the process was ended amid the run")

    @contextmanager
    def _keep_record(self) -> Iterator[None]:
        """Context manager: write ``run.json`` at the start and at any end of the run."""
        self._record.write(self.folder, "running")
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            status = error.status if isinstance(error, Cancelled) else "cancelled" if interrupted else "failed"
            with suppress(OSError):  # report the first error
                self._record.write(self.folder, status, error_text(error) or type(error).__name__)
            raise
        self._record.write(self.folder, "done")

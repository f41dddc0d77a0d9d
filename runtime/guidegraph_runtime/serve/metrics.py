"""The server's metrics, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.observers import RequestTrace, ServeObserver

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)


class ServeMetrics(ServeObserver):
    """Counts what happens in the server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels, registry = ["bundle"], self._registry
        prefix = "guidegraph_"
        self._accepted = Counter(f"{prefix}jobs_accepted", "Jobs that were queued", labels, registry=registry)
        self._refused = Counter(f"{prefix}requests_refused", "Requests refused, by reason", ["code"], registry=registry)
        self._ended = Counter(
            f"{prefix}jobs_ended", "Jobs that ended, by how they did", [*labels, "status"], registry=registry
        )
        self._open = Gauge(f"{prefix}jobs_open", "Jobs that have not ended", labels, registry=registry)
        self._seconds = Histogram(
            f"{prefix}job_seconds", "From a job's arrival to its end", labels, buckets=SECONDS, registry=registry
        )
        self._step_seconds = Histogram(
            f"{prefix}step_seconds", "Time of a shared step", labels, buckets=STEP_SECONDS, registry=registry
        )
        self._samples = Histogram(
            f"{prefix}step_samples", "Samples in a shared step", labels, buckets=SAMPLES, registry=registry
        )
        self._loaded = Gauge(f"{prefix}bundle_open", "1 while a bundle is in memory", labels, registry=registry)
        self._errors = Counter(f"{prefix}errors", "Errors of the server itself", labels, registry=registry)

    def read(self) -> tuple[bytes, str]:
        """The metrics as text, and their media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def on_accept(self, job: Job) -> None:
        self._accepted.labels(job.bundle).inc()
        self._open.labels(job.bundle).inc()

    def on_answer(self, trace: RequestTrace) -> None:
        if trace.is_refused:
            self._refused.labels(trace.code).inc()

    def on_step(self, bundle: str, runs: int, samples: int, seconds: float) -> None:
        self._step_seconds.labels(bundle).observe(seconds)
        self._samples.labels(bundle).observe(samples)

    def on_end(self, job: Job, seconds: float) -> None:
        self._ended.labels(job.bundle, job.status).inc()
        self._open.labels(job.bundle).dec()
        self._seconds.labels(job.bundle).observe(seconds)

    def on_open(self, bundle: str, seconds: float) -> None:
        self._loaded.labels(bundle).set(1)

    def on_drop(self, bundle: str) -> None:
        self._loaded.labels(bundle).set(0)

    def on_error(self, bundle: str, message: str) -> None:
        self._errors.labels(bundle).inc()

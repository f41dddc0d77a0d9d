"""Jobs that replicas draw: progress, the end, cancellation, and replicas that are lost."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guidegraph_serve import remote_service
from guidegraph_serve.jobs import LATE, DrawRequest, Failure, Job, JobWatch, RequestRefused, ServeOptions
from guidegraph_serve.remote_service import RemoteService, ReplicaEvent, ReplicaLost, iterate_replica_events
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import answer_failure, iterate_events
from plugins.serve.tests.conftest import MakeService
from plugins.serve.tests.fakes import make_job

REQUEST = DrawRequest("pictures", {"seed": 3, "steps": 4})


class Replicas:
    """Draws with a service. The first ``lost`` requests lose their replica after their first event."""

    def __init__(self, service: Service, lost: int = 0) -> None:
        self.service, self.lost, self.requests = service, lost, 0

    async def draw(self, request: DrawRequest) -> AsyncGenerator[ReplicaEvent, None]:
        self.requests += 1
        is_lost = self.requests <= self.lost
        async for event in iterate_replica_events(self.service, request):
            yield event
            if is_lost:
                raise ReplicaLost("killed")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_service, "PAUSE", 0.0)


def run(service: Service, replicas: Any, action: Callable[[RemoteService], Awaitable[Job]], **options: Any) -> Job:
    """The job of an action, when it and all others have ended."""

    async def run_action() -> Job:
        remote = RemoteService(service.entries, ServeOptions(**options), replicas.draw)
        remote.attach()
        job = await action(remote)
        with JobWatch(job) as watch:
            await asyncio.wait_for(watch.wait_for_end(), 30)
        while remote._tasks:
            await asyncio.sleep(0.01)
        return job

    return asyncio.run(run_action())


async def submit(remote: RemoteService) -> Job:
    return await asyncio.to_thread(remote.submit, REQUEST)


def test_a_replica_draws_what_a_service_of_its_own_draws(make_service: MakeService) -> None:
    service = make_service()
    job = run(service, Replicas(service), submit)
    own = service.submit(REQUEST)
    assert own.ended.wait(30)
    assert (job.status, job.step, job.steps) == ("done", 4, 4)
    assert job.outputs == own.outputs
    assert job.output_bytes == own.output_bytes > 0


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_replica_makes_previews_of_jobs_that_are_watched(make_service: MakeService, is_watched: bool) -> None:
    service = make_service(steps=1000)
    request = DrawRequest("pictures", {"steps": 500}, is_watched=is_watched)

    async def count_previews() -> int:
        return sum([bool(event.preview[1]) async for event in iterate_replica_events(service, request)])

    assert (asyncio.run(count_previews()) > 0) == is_watched


@pytest.mark.parametrize(("is_watched", "progress"), [(False, 0), (True, 1)])
def test_a_replica_tells_the_progress_of_jobs_that_are_watched(
    make_service: MakeService, is_watched: bool, progress: int
) -> None:
    service = make_service(steps=1000)
    request = DrawRequest("pictures", {"steps": 500}, is_watched=is_watched)

    async def list_events() -> list[ReplicaEvent]:
        return [event async for event in iterate_replica_events(service, request)]

    first, *between, last = asyncio.run(list_events())
    assert (first.end, len(between) >= progress, last.end is not None) == (None, True, True)
    assert is_watched or not between
    assert (last.step, last.steps) == (500, 500)


def test_a_request_that_is_given_up_while_a_replica_checks_it_is_cancelled(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(started=False)
    submit, is_checking, may_go_on = service.submit, threading.Event(), threading.Event()

    def check_slowly(request: DrawRequest) -> Job:
        is_checking.set()
        assert may_go_on.wait(30)
        return submit(request)

    monkeypatch.setattr(service, "submit", check_slowly)

    async def give_up() -> None:
        reading = asyncio.ensure_future(anext(iterate_replica_events(service, REQUEST)))
        assert await asyncio.to_thread(is_checking.wait, 30)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        may_go_on.set()
        while not (jobs := [*service.jobs._jobs.values()]) or not jobs[0].ended.is_set():
            await asyncio.sleep(0.01)
        assert jobs[0].status == "cancelled"

    asyncio.run(asyncio.wait_for(give_up(), 30))


def test_a_request_tells_a_replica_its_work(make_service: MakeService) -> None:
    service = make_service()
    works = []

    class Recording(Replicas):
        async def draw(self, request: DrawRequest) -> AsyncGenerator[ReplicaEvent, None]:
            works.append(request.work)
            async for event in super().draw(request):
                yield event

    run(service, Recording(service), submit)
    assert works == [4 * 2], "four steps of a batch of two"


def test_a_job_whose_replica_is_lost_begins_again(make_service: MakeService) -> None:
    service = make_service()
    replicas = Replicas(service, lost=2)
    job = run(service, replicas, submit)
    assert (job.status, replicas.requests) == ("done", 3)
    assert service.is_idle, "what the lost replicas drew has ended"


def test_a_job_fails_when_replica_after_replica_is_lost(make_service: MakeService) -> None:
    service = make_service()
    replicas = Replicas(service, lost=99)
    job = run(service, replicas, submit)
    assert replicas.requests == remote_service.ATTEMPTS
    assert job.failure == Failure("the replicas that drew it were lost", "replica-lost", 503)


def test_cancelling_reaches_the_replica(make_service: MakeService) -> None:
    service = make_service(started=False)  # it never begins

    async def submit_and_cancel(remote: RemoteService) -> Job:
        job = await submit(remote)
        while service.is_idle:
            await asyncio.sleep(0.01)
        remote.cancel(job)
        return job

    job = run(service, Replicas(service), submit_and_cancel)
    assert job.status == "cancelled"
    assert service.is_idle


def test_a_refusal_of_the_replica_is_that_of_the_job(make_service: MakeService) -> None:
    service = make_service(queue=1, started=False)
    service.submit(REQUEST)
    job = run(service, Replicas(service), submit)
    assert job.failure is not None
    assert (job.failure.code, job.failure.status) == ("queue-full", 429)
    assert job.failure.retry_after >= 1
    assert answer_failure(job).headers["retry-after"] == str(job.failure.retry_after)


def test_requests_are_checked_before_a_replica_sees_them(make_service: MakeService) -> None:
    service = make_service(started=False)
    replicas = Replicas(service)

    async def submit_nonsense(remote: RemoteService) -> Job:
        with pytest.raises(RequestRefused, match="'steps'"):
            await asyncio.to_thread(remote.submit, DrawRequest("pictures", {"steps": "many"}))
        job = await submit(remote)
        remote.cancel(job)
        return job

    run(service, replicas, submit_nonsense)
    assert replicas.requests <= 1


def test_a_defect_ends_the_job(make_service: MakeService, pictures: Path) -> None:
    class Broken:
        async def draw(self, request: DrawRequest) -> AsyncGenerator[ReplicaEvent, None]:
            yield ReplicaEvent("running", 1, 4)
            raise RuntimeError("a defect")

    job = run(make_service(started=False), Broken(), submit)
    assert job.failure == Failure("internal error: RuntimeError", "internal-error")


def test_the_deadline_ends_a_job_whose_replica_does_not_answer(make_service: MakeService) -> None:
    class Silent:
        is_closed = False

        async def draw(self, request: DrawRequest) -> AsyncGenerator[ReplicaEvent, None]:
            try:
                await asyncio.sleep(1000)
                yield ReplicaEvent("running", 0, 0, (0, b""))
            finally:
                self.is_closed = True

    async def submit_short(remote: RemoteService) -> Job:
        return await asyncio.to_thread(remote.submit, replace(REQUEST, deadline=0.2))

    silent = Silent()
    job = run(make_service(), silent, submit_short)
    assert job.failure == LATE
    assert silent.is_closed


def test_previews_of_a_job_that_begins_again_are_sent(make_service: MakeService) -> None:
    job = make_job(20)

    async def read_steps() -> list[int]:
        events = iterate_events(job)
        steps = []
        for preview in [(10, b"first"), (10, b"first"), (1, b"again"), (2, b"again")]:
            job.follow("running", preview[0], 20, preview)
            while "event: progress" not in (event := await anext(events)):
                steps += [json.loads(event.splitlines()[1].removeprefix("data: "))["step"]]
        await events.aclose()  # type: ignore[attr-defined]
        return steps

    assert asyncio.run(read_steps()) == [10, 1, 2]

"""Waiting, in an event loop, for changes of a job, which workers report from their threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from guidegraph_runtime.serve.jobs import Job

HEARTBEAT = 15.0
"""Seconds without a change after which watchers are woken."""


class JobWatch:
    """Waits, in an event loop, for the changes of a job that other threads report. previews: whether it needs them."""

    def __init__(self, job: Job, previews: bool = True):
        self._previews = previews
        self._job, self._changed = job, asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> JobWatch:
        self._stop = self._job.listen(self._notify, self._previews)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _notify(self) -> None:
        with suppress(RuntimeError):  # the loop has ended with the server
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, seconds: float) -> bool:
        """Wait for a change; False if there is none within the time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def wait_for_end(self) -> None:
        """Wait until the job has ended."""
        while not self._job.ended.is_set():
            await self.wait(HEARTBEAT)

"""The news of the runs for one page: the jobs that have changed since it was last told of them."""

from __future__ import annotations

import json
import time
from typing import Any

from guidegraph.page.jobs import JobQueue

PROGRESS_PERIOD = 0.5
"""Seconds between two news of progress. A page reads each, on the processors that the run computes on."""


class JobNews:
    """The jobs as a page knows them, so that it is told each change once.

    A job that begins, ends or is about to stop is news at once. The progress of the running one waits until
    ``PROGRESS_PERIOD`` has passed since the last news, and only its newest state is told.
    """

    def __init__(self, jobs: JobQueue):
        self._jobs = jobs
        self._rows: dict[int, dict[str, Any]] = {}  # without nodes, by number
        self._ended: set[int] = set()
        self._state = (-1, -1, -1)
        self._told_at = 0.0

    def read(self) -> str:
        """The jobs that have changed, as JSON, each with its nodes that have; empty without news that is due."""
        state, now = self._jobs.state(), time.monotonic()
        if state == self._state or (state[0] == self._state[0] and now - self._told_at < PROGRESS_PERIOD):
            return ""
        self._state, self._told_at = state, now
        jobs = self._jobs.list_jobs()
        numbers = {job.number for job in jobs}
        self._rows = {number: row for number, row in self._rows.items() if number in numbers}
        self._ended &= numbers
        changed = []
        for job in jobs:
            if job.number in self._ended:
                continue
            is_ended = job.ended.is_set()  # before its description, which is complete then
            known_row = self._rows.get(job.number)
            row = job.describe(known_row["version"] if known_row else 0)
            if is_ended:
                self._ended.add(job.number)
            if row != known_row:
                changed.append(row)
            self._rows[job.number] = {**row, "nodes": {}}
        return json.dumps(changed)

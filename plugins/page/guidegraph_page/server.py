"""The server of the page: its files, views of workflows, events, runs and their pictures."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from guidegraph.drawing.style import escape, page_css
from guidegraph.graph.errors import GuidegraphError
from guidegraph_page.access import FRAME_POLICY, Access, GuardedApp
from guidegraph_page.answers import (
    AsciiJson,
    answer_error,
    answer_failure,
    error_response,
    is_texts,
    read_body,
    read_json,
)
from guidegraph_page.edits import PageEdits
from guidegraph_page.folder import WorkflowFolder
from guidegraph_page.frames import describe_preview, describe_value, encode_first, is_picture
from guidegraph_page.gallery import compare_texts, list_runs, read_picture, read_stopped_run, show_output
from guidegraph_page.grids import list_grids, read_grid
from guidegraph_page.jobs import JobQueue
from guidegraph_page.strangers import MAX_BYTES
from guidegraph_page.view import SCOPE, Fingerprint, Views, read_fingerprint
from guidegraph_page.wire_routes import WireRoutes

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


PERIOD = 0.1
"""Seconds between two looks at the files and the runs."""
HEARTBEAT = 15.0
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def read_static_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files by name, with their media types; nothing else is ever served."""
    static = files("guidegraph_page") / "static"
    contents = {}
    for folder, prefix in ((static, ""), (static / "vendor", "vendor/")):
        for file in folder.iterdir():
            if (suffix := Path(file.name).suffix) in MEDIA_TYPES:
                contents[prefix + file.name] = (file.read_bytes(), MEDIA_TYPES[suffix])
    contents["graph.css"] = (page_css(SCOPE).encode(), MEDIA_TYPES[".css"])
    return contents


@dataclass
class PageServer:
    """The routes. runs: the folder of the runs' folders. is_stopping: whether streams of events should end."""

    folder: WorkflowFolder
    views: Views
    edits: PageEdits
    jobs: JobQueue
    runs: Path
    is_stopping: Callable[[], bool] = lambda: False

    def make_app(self, access: Access) -> ASGIApp:
        """The application that answers to those with access alone."""
        self.static = read_static_files()
        routes = [
            Route("/api/workflows", self.list_workflows),
            Route("/api/view", self.read_view),
            Route("/api/pictures", self.open_picture, methods=["POST"]),
            Route("/api/events", self.stream_events),
            Route("/api/edits", self.edit, methods=["POST"]),
            Route("/api/nodes", self.change_node, methods=["POST"]),
            *WireRoutes(self.views, self.edits).list_routes(),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route("/api/runs", self.list_runs, methods=["GET"]),
            Route("/api/runs", self.start_run, methods=["POST"]),
            Route("/api/comparison", self.compare_runs),
            Route("/api/grids", self.read_grid, methods=["GET"]),
            Route("/api/grids", self.start_grid, methods=["POST"]),
            Route("/api/runs/{number:int}/cancel", self.cancel_run, methods=["POST"]),
            Route("/api/runs/{number:int}/stop", self.stop_run, methods=["POST"]),
            Route("/api/runs/{number:int}/frame", self.read_frame),
            Route("/api/runs/{number:int}/values", self.read_values),
            Route("/api/runs/{number:int}/thumbnail", self.read_thumbnail),
            Route("/runs/{folder}/{file:path}", self.read_run_file),
            Route("/shown/{folder}/{file:path}", self.show_run_file),
            Route("/{name:path}", self.read_static),
        ]
        handlers: dict[Any, Any] = {GuidegraphError: answer_error, Exception: answer_failure}
        return GuardedApp(Starlette(routes=routes, exception_handlers=handlers), access)

    async def read_static(self, request: Request) -> Response:
        content = self.static.get(request.path_params["name"] or "index.html")
        if content is None:
            return error_response(HTTPStatus.NOT_FOUND, "there is no such file")
        return Response(content[0], media_type=content[1])

    async def list_workflows(self, request: Request) -> Response:
        names = await run_in_threadpool(self.folder.list_names)
        names += self.views.strangers.list_names()
        return AsciiJson({"names": names, "root": str(self.folder.root)})

    async def read_view(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        view = await run_in_threadpool(self.views.read, name)
        return AsciiJson({**view, "undo": self.edits.count(name)})

    async def open_picture(self, request: Request) -> Response:
        """Open the workflow of a picture, which is the body, as a stranger's."""
        content = await read_body(request, MAX_BYTES)
        if request.headers.get("content-type") != "image/png" or content is None:
            return error_response(HTTPStatus.BAD_REQUEST, f"expected a PNG of at most {MAX_BYTES >> 20} MiB")
        file = request.query_params.get("file", "")
        return AsciiJson({"name": await run_in_threadpool(self.views.add_picture, file, content)})

    async def edit(self, request: Request) -> Response:
        """Set the value at a path, or remove it if the value is null."""
        body = await read_json(request)
        name, path, value = body.get("name"), body.get("path"), body.get("value")
        if not isinstance(name, str) or not isinstance(path, str) or not isinstance(value, str | None):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name, a path, and a value as text")
        if value is None:
            await run_in_threadpool(self.edits.remove, name, path)
        else:
            await run_in_threadpool(self.edits.set, name, path, value, is_text=body.get("kind") == "text")
        return AsciiJson({"undo": self.edits.count(name)})

    async def change_node(self, request: Request) -> Response:
        """Rename a node, or remove it if its new name is null."""
        body = await read_json(request)
        name, path, new_name = body.get("name"), body.get("path"), body.get("new_name", 0)
        if not isinstance(name, str) or not isinstance(path, str) or not isinstance(new_name, str | None):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name, a node's path, and its new name")
        if new_name is None:
            await run_in_threadpool(self.edits.remove_node, name, path)
        else:
            await run_in_threadpool(self.edits.rename_node, name, path, new_name)
        return AsciiJson({"undo": self.edits.count(name)})

    async def undo(self, request: Request) -> Response:
        name = (await read_json(request)).get("name")
        if not isinstance(name, str):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name")
        await run_in_threadpool(self.edits.undo, name)
        return AsciiJson({"undo": self.edits.count(name)})

    async def stream_events(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        self.views.find_source(name)
        events = self.count_watcher(self.iterate_events(name, request.is_disconnected))
        return StreamingResponse(events, media_type="text/event-stream")

    async def count_watcher(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """The events of a page, which watches the runs as long as it takes them."""
        self.jobs.watchers += 1
        try:
            async for event in events:
                yield event
        finally:
            self.jobs.watchers -= 1

    async def iterate_events(self, name: str, is_disconnected: Callable[[], Any]) -> AsyncIterator[str]:
        """Server-sent events: ``file`` when the workflow has changed on disk, ``jobs`` with the news of the runs."""
        seen: dict[Path, Fingerprint] = {}
        news = JobNews(self.jobs)
        quiet = 0.0
        yield "retry: 500\n\n"
        while not self.is_stopping() and not await is_disconnected():
            watched = self.views.files.get(name, {})
            current = {path: read_fingerprint(path) for path in watched}
            is_changed = any(current[path] != seen.get(path, watched[path]) for path in watched)
            seen = current
            if is_changed:
                quiet = 0.0
                yield "event: file\ndata: {}\n\n"
            if rows := news.read():
                quiet = 0.0
                yield f"event: jobs\ndata: {rows}\n\n"
            if quiet >= HEARTBEAT:
                quiet = 0.0
                yield ": nothing new\n\n"
            await asyncio.sleep(PERIOD)
            quiet += PERIOD

    async def start_run(self, request: Request) -> Response:
        """Queue a run. resume: the folder of a stopped run to go on from."""
        body = await read_json(request)
        name, texts, resume = body.get("name"), body.get("params", {}), body.get("resume", "")
        if not isinstance(name, str) or not isinstance(resume, str) or not is_texts(texts):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name and the texts of its parameters")
        source = self.views.find_source(name)
        earlier = await run_in_threadpool(read_stopped_run, self.runs, resume) if resume else None
        job = await run_in_threadpool(self.jobs.add, name, source, texts, earlier)
        return AsciiJson(job.describe(0), HTTPStatus.ACCEPTED)

    async def start_grid(self, request: Request) -> Response:
        """Queue a grid of runs. axes: the values of one or two parameters, by name."""
        body = await read_json(request)
        name, texts, axes = body.get("name"), body.get("params", {}), body.get("axes", {})
        if not isinstance(name, str) or not is_texts(texts) or not is_texts(axes):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name and texts of parameters and axes")
        job = await run_in_threadpool(self.jobs.add_grid, name, self.views.find_source(name), texts, axes)
        return AsciiJson(job.describe(0), HTTPStatus.ACCEPTED)

    async def read_grid(self, request: Request) -> Response:
        """A grid with the cells that have ended; without a folder, the folders of all grids."""
        folder = request.query_params.get("folder", "")
        if not folder:
            return AsciiJson(await run_in_threadpool(list_grids, self.runs))
        grid = await run_in_threadpool(read_grid, self.runs, folder)
        if grid is None:
            return error_response(HTTPStatus.NOT_FOUND, "there is no grid in this folder")
        return AsciiJson({**grid, "file": self.folder.shorten(os.path.abspath(grid["file"]))})

    async def cancel_run(self, request: Request) -> Response:
        self.jobs.cancel(request.path_params["number"])
        return AsciiJson({})

    async def stop_run(self, request: Request) -> Response:
        self.jobs.stop_run(request.path_params["number"])
        return AsciiJson({})

    async def read_frame(self, request: Request) -> Response:
        job = self.jobs.jobs.get(request.path_params["number"])
        if job is None or job.frames is None or not job.frames.png:
            return error_response(HTTPStatus.NOT_FOUND, "this run has no preview")
        return Response(job.frames.png, media_type="image/png")

    async def read_values(self, request: Request) -> Response:
        """The values of a node's outputs, each in a few lines. picture: whether it can be shown as one."""
        number, key = request.path_params["number"], request.query_params.get("key", "")
        return AsciiJson({"values": await run_in_threadpool(self._describe_values, number, key)})

    def _describe_values(self, number: int, key: str) -> list[dict[str, Any]]:
        rows = []
        for name, value in self.jobs.read_values(number, key).items():
            preview = self.jobs.make_preview(number, key, name, value)
            lines = [*describe_value(value), *describe_preview(preview)]
            rows.append({"name": name, "lines": lines, "picture": isinstance(preview, bytes) or is_picture(value)})
        return rows

    async def read_thumbnail(self, request: Request) -> Response:
        key, output = (request.query_params.get(name, "") for name in ("key", "output"))
        if png := await run_in_threadpool(self._make_thumbnail, request.path_params["number"], key, output):
            return Response(png, media_type="image/png")
        return error_response(HTTPStatus.NOT_FOUND, "this value is not a picture, or is not kept")

    def _make_thumbnail(self, number: int, key: str, output: str) -> bytes:
        """The PNG of a value: that of a plugin's preview, or its first picture; empty for any other."""
        values = self.jobs.read_values(number, key)
        preview = self.jobs.make_preview(number, key, output, values[output]) if output in values else None
        return preview if isinstance(preview, bytes) else encode_first(values.get(output))

    async def list_runs(self, request: Request) -> Response:
        """A page of the runs. The file of each is the name of its workflow if that is in the folder."""
        page = await run_in_threadpool(
            list_runs, self.jobs.manager.registry, self.runs, request.query_params.get("before", "")
        )
        rows = [{**row, "file": self.folder.shorten(os.path.abspath(row["file"]))} for row in page["runs"]]
        return AsciiJson({**page, "runs": rows})

    async def compare_runs(self, request: Request) -> Response:
        """The lines in which the workflows of two runs differ."""
        folders = [request.query_params.get(key, "") for key in ("first", "second")]
        return AsciiJson({"lines": await run_in_threadpool(compare_texts, self.runs, *folders)})

    async def read_run_file(self, request: Request) -> Response:
        folder, file = request.path_params["folder"], request.path_params["file"]
        content = await run_in_threadpool(read_picture, self.runs, folder, file)
        if content is None:
            return error_response(HTTPStatus.NOT_FOUND, "there is no such picture")
        return Response(content, media_type="image/png")

    async def show_run_file(self, request: Request) -> Response:
        """The markup of an output's file, for a frame without scripts, by the format of the output's type."""
        folder, file = request.path_params["folder"], request.path_params["file"]
        shown = await run_in_threadpool(show_output, self.jobs.manager.registry, self.runs, folder, file)
        if shown is None:
            return error_response(HTTPStatus.NOT_FOUND, "there is no such file, or no format shows it")
        markup = shown.html or f"<p>{escape(f'{file} {shown.failure}')}</p>"
        return HTMLResponse(markup, headers={"content-security-policy": FRAME_POLICY})

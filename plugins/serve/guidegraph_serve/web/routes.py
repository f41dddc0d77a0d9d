"""The routes of the server."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, Input, plain_bounds
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.limits import enforce_limits
from guidegraph_serve.job_service import JobService
from guidegraph_serve.jobs import DrawRequest, Job, RequestRefused
from guidegraph_serve.observers import RequestTrace, trace_request
from guidegraph_serve.shelf import ShelfEntry
from guidegraph_serve.uploads import decode_files
from guidegraph_serve.web.answers import (
    EVENT_HEADERS,
    AccessGuard,
    EventStream,
    ServeAccess,
    StrictJson,
    answer_failure,
    answer_http_error,
    answer_refused,
    describe_job,
    iterate_events,
    iterate_picture_events,
    make_error,
    wait_for_end,
)
from guidegraph_serve.web.bodies import (
    DEADLINE,
    FORM_TYPE,
    JSON_TYPE,
    MODEL,
    NODES,
    PARAMS,
    PRIORITY,
    WAIT,
    BodyReader,
)
from guidegraph_serve.web.image_requests import (
    COUNT_INPUT,
    ImageRequest,
    answer_images,
    describe_pictures,
    name_edited_inputs,
    read_form_fields,
    read_image_request,
)
from guidegraph_serve.web.openapi import BUNDLE_PATH, describe_api

REQUEST_ID = "x-request-id"
CODE = "guidegraph_code"
"""The key of the state of a request under which a layer leaves the code of its refusal."""
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""The header of W3C Trace Context, section 3.2."""


class RequestLog:
    """An ASGI application that names requests and reports those that are answered. report: is called with each.

    A client's ``x-request-id`` is kept, up to 128 printable ASCII characters, and so is its ``traceparent``.
    """

    def __init__(self, app: ASGIApp, report: Callable[[RequestTrace], None]):
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = read_trace(scope)
        started = time.monotonic()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = trace.id
                trace.status, trace.has_job = message["status"], "x-job-id" in headers
            await send(message)

        try:
            with trace_request(trace):
                await self._app(scope, receive, send_and_note)
        finally:
            trace.seconds = time.monotonic() - started
            trace.code = scope.get("state", {}).get(CODE, "")
            if not trace.code and trace.status >= HTTPStatus.BAD_REQUEST:
                trace.code = HTTPStatus(trace.status).phrase.lower().replace(" ", "-")
            with trace_request(trace):
                self._report(trace)


def read_trace(scope: Scope) -> RequestTrace:
    """The description of a request that has not been answered."""
    headers = Headers(scope=scope)
    request_id, parent = headers.get(REQUEST_ID, ""), headers.get("traceparent", "")
    client = scope.get("client")
    return RequestTrace(
        request_id if _ID.fullmatch(request_id) else secrets.token_hex(8),
        parent if _TRACEPARENT.fullmatch(parent) else "",
        client[0] if client else "",
        scope["method"],
        scope["path"][:200],
    )


def note_code(scope: Scope, code: str) -> None:
    """Leave the code of a refusal for the log."""
    state: dict[str, Any] = scope.setdefault("state", {})
    state[CODE] = code


class DefectGuard:
    """An ASGI application that answers a request whose handler raises. report: the answer to an exception."""

    def __init__(self, app: ASGIApp, report: Callable[[Exception], Response]):
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            answer = self._report(error)
            if is_answered or scope["type"] != "http":
                raise
            await answer(scope, receive, send)


FILE_CHECKS = 2
"""How many requests with files are checked at once, since their pictures are decoded then."""


@dataclass
class ServeRoutes:
    """The routes over a service. read_metrics: the metrics as text, and their media type."""

    service: JobService
    read_metrics: Callable[[], tuple[bytes, str]]
    started: int = 0

    def __post_init__(self) -> None:
        options = self.service.options
        takes_files = any(entry.takes_files for entry in self.service.entries.values())
        self._bodies = BodyReader(max(options.body_bytes, options.upload_bytes) if takes_files else options.body_bytes)
        self._file_checks = CapacityLimiter(FILE_CHECKS)

    def make_app(self, access: ServeAccess, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
        """The application that answers to those with access alone. lifespan: its start and its end."""
        routes = [
            Route("/v1/images/generations", self.generate_images, methods=["POST"]),
            Route("/v1/images/edits", self.edit_images, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name}", self.read_model),
            Route(BUNDLE_PATH, self.read_workflow, methods=["GET"]),
            Route(BUNDLE_PATH, self.run_workflow, methods=["POST"]),
            Route("/v1/jobs/{id}", self.read_job, methods=["GET"]),
            Route("/v1/jobs/{id}", self.cancel_job, methods=["DELETE"]),
            Route("/v1/jobs/{id}/events", self.stream_events),
            Route("/health/live", self.report_live),
            Route("/health/ready", self.report_ready),
            Route("/metrics", self.report_metrics),
            Route("/openapi.json", self.report_api),
        ]
        guards = [Middleware(DefectGuard, report=self.report_defect), Middleware(AccessGuard, access=access)]
        log = Middleware(RequestLog, report=self.service.report_answer)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # clients add their own, and the origin decides
            expose_headers=["location", "retry-after", "x-job-id", REQUEST_ID],
        )
        middleware = [log, *([cors] if access.origins else []), *guards]
        handlers: dict[Any, Any] = {RequestRefused: self.refuse, HTTPException: answer_http_error}
        app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
        app.state.has_token = access.token is not None
        return app

    async def generate_images(self, request: Request) -> Response:
        """Draw pictures in the dialect of OpenAI's clients."""
        with self._bodies.reserve(request):
            body = await self._bodies.read(request, JSON_TYPE)
            entry = self.service.checks.find_entry(self._read_model_name(body))
            image_request, jobs = await self._submit_images(entry, body)
        return await self._answer_images(request, entry, image_request, jobs, "image_generation")

    async def edit_images(self, request: Request) -> Response:
        """Draw pictures from pictures that the request carries, in the dialect of OpenAI's clients."""
        with self._bodies.reserve(request):
            body = await self._bodies.read(request, JSON_TYPE, FORM_TYPE)
            is_form = request.headers["content-type"].lower().startswith(FORM_TYPE)
            entry = self.service.checks.find_entry(self._read_model_name(body))

            def read_fields() -> dict[str, Any]:
                with enforce_limits(self.service.checks.limits):
                    return name_edited_inputs(entry, read_form_fields(entry, body) if is_form else body)

            fields = await to_thread.run_sync(read_fields, limiter=self._file_checks)
            image_request, jobs = await self._submit_images(entry, fields)
        return await self._answer_images(request, entry, image_request, jobs, "image_edit")

    async def _answer_images(
        self, request: Request, entry: ShelfEntry, image_request: ImageRequest, jobs: Sequence[Job], kind: str
    ) -> Response:
        """The answer to a request for pictures. kind: the beginning of the names of the events of a stream."""
        if not image_request.streams:
            return await self._wait(request, jobs, lambda: answer_images(entry, jobs, image_request.count))
        events = iterate_picture_events(jobs, kind, lambda: describe_pictures(entry, jobs, image_request.count))
        return EventStream(events, lambda: self._end_jobs(jobs), _name_jobs(jobs))

    def _end_jobs(self, jobs: Sequence[Job]) -> None:
        """Cancel the jobs that have not ended."""
        for job in jobs:
            self.service.cancel(job)

    async def _submit_images(self, entry: ShelfEntry, body: dict[str, Any]) -> tuple[ImageRequest, list[Job]]:
        """A request for pictures and its jobs, all of them or none. Raises ``RequestRefused``."""
        has_n = "n" in body
        image_request = read_image_request(entry, body, self.service.options.batch)
        jobs: list[Job] = []
        try:
            jobs.append(await self._submit(image_request.first))
            for draw_request in image_request.list_further(entry, jobs[0].samples):
                jobs.append(await self._submit(draw_request))
        except BaseException as error:
            self._end_jobs(jobs)
            if has_n and isinstance(error, RequestRefused) and error.param == COUNT_INPUT:
                error.param = "n"  # as the client wrote it
            raise
        return image_request, jobs

    def _read_model_name(self, body: dict[str, Any]) -> str:
        """The bundle that a body names; it may be left out if there is only one."""
        names = [*self.service.entries]
        name = MODEL.take(body)
        if name is None and len(names) == 1:
            return names[0]
        if name is None:
            raise RequestRefused(f"expected the name of a bundle: {', '.join(names)}", "model")
        return str(name)

    async def run_workflow(self, request: Request) -> Response:
        """Run a bundle with the parameters of its workflow."""
        with self._bodies.reserve(request):
            body = await self._bodies.read(request, JSON_TYPE)
            name = request.path_params["name"]
            inputs = self.service.checks.find_entry(name).manifest.inputs
            waits = WAIT.take(body)
            draw_request = DrawRequest(
                name,
                decode_files(inputs, PARAMS.take(body)),
                NODES.take(body),
                PRIORITY.take(body),
                DEADLINE.take(body),
                is_watched=not waits,
            )
            if body:
                unknown = next(iter(body))
                raise RequestRefused(f"there is no field '{unknown[:80]}'; parameters belong in 'params'", unknown)
            job = await self._submit(draw_request)
        if not waits:
            return StrictJson(describe_job(job), HTTPStatus.ACCEPTED, headers={"location": f"/v1/jobs/{job.id}"})
        return await self._wait(request, [job], lambda: describe_job(job))

    async def _submit(self, draw_request: DrawRequest) -> Job:
        """Submit a request on a thread; those with files, which are decoded there, a few at a time."""
        has_files = any(isinstance(value, (bytes, list)) for value in draw_request.params.values())
        limiter = self._file_checks if has_files else None
        return await to_thread.run_sync(self.service.submit, draw_request, limiter=limiter)

    async def _wait(self, request: Request, jobs: Sequence[Job], describe: Callable[[], dict[str, Any]]) -> Response:
        """The answer at the end of all jobs, or at the first that fails. A client that goes away cancels them."""
        try:
            for job in jobs:
                has_ended = await wait_for_end(job, request)
                if not has_ended or job.status != "done":
                    return answer_failure(job)
        finally:
            self._end_jobs(jobs)
        return StrictJson(describe(), headers=_name_jobs(jobs))

    async def list_models(self, request: Request) -> Response:
        """The bundles, in the dialect of OpenAI's clients."""
        models = [self._describe_model(name) for name in self.service.entries]
        return StrictJson({"object": "list", "data": models})

    async def read_model(self, request: Request) -> Response:
        """One bundle, in the dialect of OpenAI's clients."""
        return StrictJson(self._describe_model(self.service.checks.find_entry(request.path_params["name"]).name))

    def _describe_model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "guidegraph"}

    async def read_workflow(self, request: Request) -> Response:
        """The parameters and outputs of a bundle."""
        entry = self.service.checks.find_entry(request.path_params["name"])
        inputs = {name: _describe_input(spec) for name, spec in entry.inputs.items()}
        outputs = {name: {"type": output.type} for name, output in entry.manifest.outputs.items()}
        answer = {"name": entry.name, "digest": entry.checks.digest, "params": inputs, "outputs": outputs}
        return StrictJson(answer)

    def _find_job(self, request: Request) -> Job:
        job = self.service.jobs.find(request.path_params["id"])
        if job is None:
            raise RequestRefused("there is no such job, or it ended long ago", code="unknown-job", status=404)
        return job

    async def read_job(self, request: Request) -> Response:
        """The state of a job, and its outputs when it is done."""
        return StrictJson(describe_job(self._find_job(request)))

    async def cancel_job(self, request: Request) -> Response:
        """Cancel a job; one that has ended stays as it is."""
        job = self._find_job(request)
        self.service.cancel(job)
        return StrictJson(describe_job(job, outputs=False))

    async def stream_events(self, request: Request) -> Response:
        """The progress, the previews and the end of a job as server-sent events.

        With ``?cancel=true`` the job is cancelled when the client goes away before its end.
        """
        job, cancels = self._find_job(request), request.query_params.get("cancel", "false")
        if cancels not in ("true", "false"):
            raise RequestRefused(f"'cancel': expected true or false, found {cancels!r:.80}", "cancel")

        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=EVENT_HEADERS)

        return EventStream(iterate_events(job), lambda: self._end_jobs([job] if cancels == "true" else []))

    async def report_live(self, request: Request) -> Response:
        """Whether the process answers."""
        return StrictJson({"status": "live"})

    async def report_ready(self, request: Request) -> Response:
        """Whether new requests are accepted."""
        if self.service.is_draining:
            return StrictJson({"status": "draining"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return StrictJson({"status": "ready"})

    async def report_api(self, request: Request) -> Response:
        """The OpenAPI document of this server."""
        app: Starlette = request.app
        routes = [route for route in app.routes if isinstance(route, Route)]
        prefix = request.scope.get("root_path", "")
        return StrictJson(describe_api(routes, self.service.checks, app.state.has_token, prefix))

    async def refuse(self, request: Request, error: Exception) -> Response:
        """The answer to a request that was not queued."""
        assert isinstance(error, RequestRefused)
        note_code(request.scope, error.code)
        return answer_refused(error)

    def report_defect(self, error: Exception) -> Response:
        """The answer where the server itself is wrong."""
        self.service.report_error(describe_error(error))
        message = f"internal error: {type(error).__name__}"
        return make_error(HTTPStatus.INTERNAL_SERVER_ERROR, message, code="internal-error")

    async def report_metrics(self, request: Request) -> Response:
        """The metrics as Prometheus reads them."""
        content, media_type = self.read_metrics()
        return Response(content, headers={"content-type": media_type})


def _name_jobs(jobs: Sequence[Job]) -> dict[str, str]:
    return {"x-job-id": ", ".join(job.id for job in jobs)}


def _describe_input(spec: Input) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": spec.type, "required": spec.required, "help": spec.help}
    fields |= {} if spec.required or spec.type in FILE_TYPES else {"default": spec.default}
    fields |= {"many": True} if spec.many else {}
    fields |= {"optional": True} if spec.takes_null else {}
    fields |= {} if spec.bounds is None else {"bounds": plain_bounds(spec.bounds)}
    return fields | ({} if spec.choices is None else {"choices": list(spec.choices)})

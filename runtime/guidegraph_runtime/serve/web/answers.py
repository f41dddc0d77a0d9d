"""The server's answers as JSON. Errors have the form that OpenAI's clients read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from guidegraph_runtime.serve.jobs import Failure, Job
from guidegraph_runtime.serve.requests import RequestRefused


class StrictJson(JSONResponse):
    """JSON in ASCII, without NaN."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def make_error(
    status: int, message: str, param: str | None = None, code: str = "", headers: Mapping[str, str] | None = None
) -> StrictJson:
    """The answer with an error as OpenAI's clients read it."""
    return StrictJson(describe_error(status, message, param, code), status, headers=dict(headers or {}))


def describe_error(status: int, message: str, param: str | None = None, code: str = "") -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    kind = "rate_limit_error" if status == HTTPStatus.TOO_MANY_REQUESTS else kind
    return {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def answer_refusal(status: HTTPStatus, message: str) -> StrictJson:
    """The answer to a request without access."""
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return make_error(status, message, code=status.phrase.lower().replace(" ", "-"), headers=headers)


def answer_refused(error: RequestRefused) -> StrictJson:
    """The answer to a request that was not queued."""
    return make_error(error.status, error.message, error.param, error.code, _make_retry_header(error.retry_after))


def _make_retry_header(seconds: int) -> dict[str, str]:
    return {"retry-after": str(seconds)} if seconds else {}


async def answer_http_error(request: Request, error: Exception) -> Response:
    """The answer to an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_list_methods(request))
    return make_error(error.status_code, message, headers=headers)


def _list_methods(request: Request) -> list[str]:
    """The methods that a path takes, by all of its routes: Starlette lists those of the first one alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return sorted({method for route in fitting for method in route.methods or ()})


def answer_failure(job: Job) -> StrictJson:
    """The answer to a request whose job did not end well."""
    failure = job.failure or Failure("the job has no outputs")
    headers = {"x-job-id": job.id, **_make_retry_header(failure.retry_after)}
    return make_error(failure.status, failure.message, None, failure.code, headers)

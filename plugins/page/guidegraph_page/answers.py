"""The server's answers as JSON, and the JSON of its requests."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guidegraph.graph.errors import WorkflowError
from guidegraph_page.folder import UnknownWorkflow
from guidegraph_page.jobs import QueueFull

MAX_BODY = 1 << 20


class AsciiJson(JSONResponse):
    """JSON in ASCII, which half of a surrogate pair in a file or a request fits into as well."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a request, a JSON object; empty if it is anything else."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return {}
    body = await read_body(request, MAX_BODY)
    try:
        content = json.loads(body or b"")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body of a request; ``None`` if it is longer than ``limit`` bytes."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def is_texts(value: Any) -> bool:
    """Whether a part of a request is an object whose values are all texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def error_response(status: HTTPStatus, message: str, problems: Any = ()) -> AsciiJson:
    return AsciiJson({"error": message, "problems": list(problems)}, status)


async def answer_error(request: Request, error: Exception) -> Response:
    """An error for the user as JSON; those of a workflow or its parameters with each problem."""
    if isinstance(error, WorkflowError):
        problems = [{"line": p.mark.line, "code": p.code, "message": p.message, "path": p.path} for p in error.problems]
        return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, "the workflow or its parameters are wrong", problems)
    if isinstance(error, UnknownWorkflow):
        return error_response(HTTPStatus.NOT_FOUND, str(error))
    status = error.status if isinstance(error, QueueFull) else HTTPStatus.CONFLICT
    return error_response(status, str(error))


async def answer_failure(request: Request, error: Exception) -> Response:
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error: {type(error).__name__}")

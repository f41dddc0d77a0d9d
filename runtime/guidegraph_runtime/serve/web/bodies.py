"""The bodies of requests, JSON and forms: read within limits of bytes, time and the memory of all together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from guidegraph_runtime.bundle.strict_json import parse_json
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.serve.requests import RequestRefused

JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
BODY_SECONDS = 30.0
"""How long a client may take to send its request."""
MAX_DIGITS = 20
"""Of the length of a body; Python reads longer numbers slowly."""
MAX_VALUES = 1 << 16
"""Of the commas and brackets of a body, which bound its values: an empty list takes 20 times its text in memory."""
MAX_FILES = 64
MAX_FIELDS = 256
BODIES = 16
"""How many of the largest bodies are read and checked at once."""
_ENTRY = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")
"""A field of a form that is an entry of an object: ``nodes[noise.shape]``."""


class _MemoryParser(MultiPartParser):
    """A parser of forms that writes no files: bodies are in memory and bounded."""

    spool_max_size = 1 << 62


class BodyReader:
    """Reads bodies of up to ``limit`` bytes."""

    def __init__(self, limit: int):
        self.limit = limit
        self._held = 0

    async def read(self, request: Request, *kinds: str) -> dict[str, Any]:
        """The body of a request, a JSON object or a form, whichever is among ``kinds``. Raises ``RequestRefused``.

        A file of a form is its bytes, any other field its text. Several fields of one name, or of one that ends in
        ``[]``, are a list, and ``name[key]`` is the entry of an object, as clients write these.
        """
        kind = _check_type(request, kinds)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if kind == FORM_TYPE:
                    return await _parse_form(request, self._stream(request), self.limit)
                body = b"".join([chunk async for chunk in self._stream(request)])
        except ClientDisconnect:
            raise RequestRefused("the client went away", code="disconnected") from None
        except TimeoutError:
            message = f"expected the body within {BODY_SECONDS:g} seconds"
            raise RequestRefused(message, code="timeout", status=408) from None
        return _parse_object(body)

    @contextmanager
    def reserve(self, request: Request) -> Iterator[None]:
        """Reserve memory for the body of a request until its job, which has its own, is there.

        Raises ``RequestRefused`` where too much is reserved already.
        """
        length = request.headers.get("content-length", "")
        has_length = length.isascii() and length.isdigit()
        if has_length and (len(length) > MAX_DIGITS or int(length) > self.limit):
            raise self._refuse_large()  # without waiting for it
        size = int(length) if has_length else self.limit
        if self._held + size > BODIES * self.limit:
            raise RequestRefused("the server reads many requests: try again later", None, "busy", 429, retry_after=1)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _refuse_large(self) -> RequestRefused:
        return RequestRefused(f"expected a body of at most {self.limit} bytes", code="too-large", status=413)

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self.limit:
                raise self._refuse_large()
            yield chunk


def _check_type(request: Request, kinds: Sequence[str]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        names = {JSON_TYPE: "JSON", FORM_TYPE: "a form"}
        expected = " or ".join(f"{names[kind]} with the header 'Content-Type: {kind}'" for kind in kinds)
        raise RequestRefused(f"expected {expected}", status=415)
    return kind


def _count_values(count: Callable[[Any], int], marks: Sequence[Any]) -> None:
    """Raise ``RequestRefused`` for JSON with too many values. count: of a mark in it."""
    if sum(map(count, marks)) > MAX_VALUES:
        raise RequestRefused(f"expected at most {MAX_VALUES} commas and brackets", code="too-large", status=413)


def _parse_object(body: bytes) -> dict[str, Any]:
    _count_values(body.count, (b",", b"[", b"{"))
    try:
        content = parse_json(body, "the request", remedy="")
    except BundleError as error:
        raise RequestRefused(error.message, error.param, "bad-json") from None
    if not isinstance(content, dict):
        raise RequestRefused("expected a JSON object", code="bad-json")
    return content


async def _parse_form(request: Request, stream: AsyncGenerator[bytes, None], limit: int) -> dict[str, Any]:
    charset = parse_options_header(request.headers.get("content-type", ""))[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"us-ascii"):  # others may take a time that grows with the square of the size
        raise RequestRefused("expected a form in UTF-8", code="bad-form", status=415)
    parser = _MemoryParser(request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=limit)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", None) or "its boundary or a part's head is wrong"
        raise RequestRefused(f"expected a form: {message}", code="bad-form") from None
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        content = await value.read() if isinstance(value, UploadFile) else value
        _add_field(fields, name, content)
    await form.close()
    return fields


def _add_field(fields: dict[str, Any], name: str, value: Any) -> None:
    if (entry := _ENTRY.fullmatch(name)) is not None:
        values = fields.setdefault(entry[1], {})
        if not isinstance(values, dict):
            raise RequestRefused(f"'{entry[1]}': expected one value or an object, found both", entry[1], "bad-form")
        if isinstance(value, str):
            _count_values(value.count, (",", "[", "{"))
        values[entry[2]] = read_json_text(value)
    elif name.endswith("[]"):
        fields[name[:-2]] = [*_as_list(fields.get(name[:-2])), value]
    else:
        fields[name] = [*_as_list(fields[name]), value] if name in fields else value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def read_json_text(value: Any) -> Any:
    """A form's text as JSON; a text that is none, and bytes, as they are."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode("utf-8", "surrogatepass"), "the field", remedy="")
    except BundleError:
        return value

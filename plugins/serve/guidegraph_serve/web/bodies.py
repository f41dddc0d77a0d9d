"""The bodies of requests, JSON and forms, and their fields.

Bodies are read within limits of bytes, time and the memory of all together. One declaration checks and describes a
field.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from guidegraph_runtime.bundle.strict_json import parse_json
from guidegraph_runtime.errors import BundleError
from guidegraph_serve.jobs import RequestRefused
from guidegraph_serve.request_checks import PRIORITIES

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
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in kinds:
            names = {JSON_TYPE: "JSON", FORM_TYPE: "a form"}
            expected = " or ".join(f"{names[kind]} with the header 'Content-Type: {kind}'" for kind in kinds)
            raise RequestRefused(f"expected {expected}", status=415)
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
        _count_values(body.count, (b",", b"[", b"{"))
        try:
            content = parse_json(body, "the request", remedy="")
        except BundleError as error:
            raise RequestRefused(error.message, error.param, "bad-json") from None
        if not isinstance(content, dict):
            raise RequestRefused("expected a JSON object", code="bad-json")
        return content

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


def _count_values(count: Callable[[Any], int], marks: Sequence[Any]) -> None:
    """Raise ``RequestRefused`` for JSON with too many values. count: of a mark in it."""
    if sum(map(count, marks)) > MAX_VALUES:
        raise RequestRefused(f"expected at most {MAX_VALUES} commas and brackets", code="too-large", status=413)


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
    for name, sent in form.multi_items():
        value = await sent.read() if isinstance(sent, UploadFile) else sent
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
    await form.close()
    return fields


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


JSON_NAMES: Mapping[type, str] = {
    bool: "boolean",
    str: "string",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}
"""The names that JSON Schema has for the types of Python that JSON is read as."""


def name_type(kinds: tuple[type, ...]) -> str:
    """JSON Schema's name of a value that is of one of some types; a whole number is a number, too."""
    return JSON_NAMES[float if float in kinds else kinds[0]]


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that also takes null."""
    return {"anyOf": [schema, {"type": "null"}]}


@dataclass(frozen=True)
class BodyField:
    """A field of a body, which may be left out or null.

    kinds: the types of its value. expected: the same in words. default: its value if it is left out. help: a
    description. limits: further keywords of JSON Schema; whoever takes the field checks these.
    """

    name: str
    kinds: tuple[type, ...]
    expected: str
    default: Any = None
    help: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)

    def take(self, body: dict[str, Any]) -> Any:
        """Remove the field from a body and return its value or its default. Raises ``RequestRefused``."""
        value = body.pop(self.name, None)
        if value is None:
            return copy(self.default)
        if not isinstance(value, self.kinds) or (isinstance(value, bool) and bool not in self.kinds):
            raise RequestRefused(f"'{self.name}': expected {self.expected}, found {value!r:.80}", self.name)
        return value

    def describe(self, **limits: Any) -> dict[str, Any]:
        """The field as JSON Schema, with its own limits and further ones of a server."""
        schema = or_null({"type": name_type(self.kinds), **self.limits, **limits})
        schema |= {"description": self.help} if self.help else {}
        return schema | ({} if self.default is None else {"default": self.default})


MODEL = BodyField("model", (str,), "the name of a bundle", help="the name of a bundle")
WAIT = BodyField("wait", (bool,), "true or false", True, "false: answer at once, with the id of the job")
PARAMS = BodyField("params", (dict,), "an object of parameters", {})
NODES = BodyField(
    "nodes", (dict,), "an object of 'node.setting': value", {}, "settings of the plan's nodes, by node.setting"
)
PRIORITY = BodyField(
    "priority",
    (int,),
    "a whole number",
    0,
    "higher ones go first",
    {"minimum": PRIORITIES[0], "maximum": PRIORITIES[-1]},
)
DEADLINE = BodyField(
    "deadline",
    (int, float),
    "a number of seconds",
    help="seconds until the job fails if it has not ended",
    limits={"exclusiveMinimum": 0},
)

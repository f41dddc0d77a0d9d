"""The OpenAPI 3.1 document of a server: its routes, the parameters of its bundles, its answers and its errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, get_args
from urllib.parse import quote

from starlette.routing import Route

from guidegraph_runtime import __version__
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, OUTPUT_TYPES, Input, plain_bounds
from guidegraph_runtime.running.inputs import FLOAT_LIMIT
from guidegraph_serve.jobs import RequestRefused, ServeOptions, Status
from guidegraph_serve.request_checks import RequestChecks
from guidegraph_serve.shelf import ShelfEntry
from guidegraph_serve.uploads import BASE64_FILE, describe_form
from guidegraph_serve.web.answers import OPEN_PATHS
from guidegraph_serve.web.bodies import (
    DEADLINE,
    FORM_TYPE,
    JSON_NAMES,
    JSON_TYPE,
    MODEL,
    NODES,
    PARAMS,
    PRIORITY,
    WAIT,
    BodyField,
    name_type,
    or_null,
)
from guidegraph_serve.web.image_requests import (
    COUNT_INPUT,
    IMAGE_FIELDS,
    SIZE,
    SIZE_INPUTS,
    find_file_input,
    find_image_output,
)

Schema: TypeAlias = dict[str, Any]
"""JSON Schema, 2020-12."""

EVENT_TYPE = "text/event-stream"
BUNDLE_PATH = "/v1/workflows/{name}"
"""The route that is a path for each bundle."""
_BOUNDS = {"low": "minimum", "above": "exclusiveMinimum", "high": "maximum", "below": "exclusiveMaximum"}
_FORM_FILE: Schema = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_JSON_FILE: Schema = {"type": "string", "pattern": BASE64_FILE}

REASONS: Mapping[int, str] = {
    400: "a parameter is wrong, or above a limit",
    401: "the token is missing or wrong",
    403: "a page of another site, or another host name",
    404: "no such bundle or job",
    408: "the body takes too long",
    409: "the job was cancelled",
    413: "the body, a picture or the memory of its calls is too large",
    415: "the body is of another type",
    422: "a picture came out as NaN or infinite",
    429: "the queue is full: the header Retry-After says when to try again",
    500: "the run or the server failed",
    503: "the server is shutting down",
    504: "the deadline has passed",
}
_OF_RUNS = (400, 408, 409, 413, 415, 422, 429, 503, 504)
_ERRORS: Mapping[str, Sequence[int]] = {
    "generate_images": (404, *_OF_RUNS),
    "edit_images": (404, *_OF_RUNS),
    "run_workflow": _OF_RUNS,
    "read_model": (404,),
    "read_job": (404,),
    "cancel_job": (404,),
    "stream_events": (400, 404),
}
"""The statuses of the errors of an endpoint. Each has 403 and 500 too, and 401 on a server with a token."""


def describe_api(routes: Iterable[Route], checks: RequestChecks, has_token: bool, prefix: str = "") -> dict[str, Any]:
    """The document of an application with these routes. prefix: the path under which it is mounted.

    Its schemas are those that the server checks requests by, except that JSON Schema takes 2.0 for an integer, and
    that what depends on several values, such as the memory of a run, is checked by the server alone.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        own: dict[str, ShelfEntry | None] = {route.path: None}
        if route.path == BUNDLE_PATH:
            own = {route.path.replace("{name}", quote(n, safe="")): entry for n, entry in checks.entries.items()}
        for method in sorted((route.methods or set()) - {"HEAD"}):  # answered as GET
            for path, entry in own.items():
                operation = _describe_operation(route, entry, checks, has_token)
                paths.setdefault(path, {})[method.lower()] = operation
    components: dict[str, Any] = {"schemas": _make_schemas()}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "guidegraph-serve", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": components,
    }
    if has_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _describe_operation(
    route: Route,
    entry: ShelfEntry | None,
    checks: RequestChecks,
    has_token: bool,
) -> dict[str, Any]:
    """The operation of a route, and of a bundle if it has its own path."""
    name = route.name
    summary = (inspect.getdoc(route.endpoint) or "").partition("\n")[0]
    is_open = route.path in OPEN_PATHS
    errors = sorted([*_ERRORS.get(name, ()), 403, 500, *([401] if has_token and not is_open else [])])
    responses = {str(status): answer for status, answer in _ANSWERS[name].items()}
    for status in errors:
        headers = {"retry_after": "seconds after which the request may be sent again"} if status in (429, 503) else {}
        responses[str(status)] = _answer_json(REASONS[status], _refer("Error"), **headers)
    operation: dict[str, Any] = {
        "operationId": name if entry is None else f"{name}_{quote(entry.name, safe='')}",
        "summary": summary,
        "responses": responses,
    }
    keys = re.findall(r"\{(\w+)\}", route.path) if entry is None else []
    parameters = [{"name": key, "in": "path", "required": True, "schema": {"type": "string"}} for key in keys]
    if name == "stream_events":
        flag = {"type": "string", "enum": ["true", "false"], "default": "false"}
        help = "true: cancel the job when the client goes away before its end"
        parameters.append({"name": "cancel", "in": "query", "description": help, "schema": flag})
    operation |= {"parameters": parameters} if parameters else {}
    operation |= {"security": []} if has_token and is_open else {}
    if name == "run_workflow" and entry is not None:
        operation["requestBody"] = _describe_body({JSON_TYPE: describe_run(entry, checks.options)})
    elif name in ("generate_images", "edit_images"):
        edits = name == "edit_images"
        content = {JSON_TYPE: describe_image_requests(checks, edits)}
        content |= {FORM_TYPE: describe_image_requests(checks, edits, _FORM_FILE)} if edits else {}
        operation["requestBody"] = _describe_body(content)
    return operation


def _describe_body(content: Mapping[str, Schema]) -> dict[str, Any]:
    media: dict[str, Any] = {kind: {"schema": schema} for kind, schema in content.items()}
    if FORM_TYPE in media:  # nodes[scheduler.use]=scheduler.heun
        media[FORM_TYPE]["encoding"] = {NODES.name: {"style": "deepObject", "explode": True}}
    return {"required": True, "content": media}


def describe_run(entry: ShelfEntry, options: ServeOptions) -> Schema:
    """The body of a request to run a bundle."""
    inputs = entry.inputs
    required = [name for name, spec in inputs.items() if spec.required]
    params = _describe_object({name: describe_value(spec) for name, spec in inputs.items()}, required)
    fields = {field.name: _describe_field(field, options) for field in (WAIT, NODES, PRIORITY, DEADLINE)}
    fields[PARAMS.name] = params if required else or_null(params)
    return _describe_object(fields, [PARAMS.name] if required else [])


def describe_image_requests(checks: RequestChecks, edits: bool, file: Schema = _JSON_FILE) -> Schema:
    """The body of a request for pictures: one of those that the bundles take. file: how a body has a file."""
    kinds = [
        _describe_image_request(entry, checks, edits, file)
        for entry in checks.entries.values()
        if find_image_output(entry) is not None and (not edits or _find_edited(entry, "image") is not None)
    ]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {"not": {}}


def _describe_image_request(entry: ShelfEntry, checks: RequestChecks, edits: bool, file: Schema) -> Schema:
    """The body of a request for pictures of one bundle."""
    inputs, is_only = entry.inputs, len(checks.entries) == 1  # then it need not be named
    required = {name for name, spec in inputs.items() if spec.required} - {COUNT_INPUT, *SIZE_INPUTS}
    fields = {field.name: _describe_field(field, checks.options) for field in IMAGE_FIELDS}
    if not {*SIZE_INPUTS} <= inputs.keys():
        fields[SIZE.name] = SIZE.describe(enum=[SIZE.default])
    for name, spec in inputs.items():
        schema = describe_value(spec, file)
        fields[name] = schema if name in required or spec.takes_null else or_null(schema)  # null leaves it out
    for kind in ("image", "mask") if edits else ():
        if (edited := _find_edited(entry, kind)) is not None:
            picture = _describe_one(inputs[edited], file)
            many: Schema = {} if inputs[edited].many else {"maxItems": 1}
            sent: Schema = {"anyOf": [picture, {"type": "array", "items": picture, "minItems": 1, **many}]}
            fields[edited] = or_null(describe_value(inputs[edited], file))  # the field may set it instead
            required.discard(edited)
            fields[kind] = sent if kind == "image" else or_null(sent)
    model: Schema = {"type": "string", "enum": _list_names(entry, checks), "description": MODEL.help}
    fields[MODEL.name] = or_null(model) if is_only else model
    always = [*([] if is_only else [MODEL.name]), *(["image"] if edits else [])]
    return {"title": entry.name, **_describe_object(fields, [*always, *sorted(required)])}


def _find_edited(entry: ShelfEntry, kind: str) -> str | None:
    try:
        return find_file_input(entry, kind)
    except RequestRefused:
        return None


def _list_names(entry: ShelfEntry, checks: RequestChecks) -> list[str]:
    """The names by which requests find a bundle."""

    def finds(name: str) -> bool:
        try:
            return checks.find_entry(name) is entry
        except RequestRefused:
            return False

    return [name for name in dict.fromkeys((entry.name, entry.manifest.name)) if finds(name)]


def _describe_field(field: BodyField, options: ServeOptions) -> Schema:
    return field.describe(maximum=options.seconds) if field is DEADLINE else field.describe()


def _describe_object(properties: Mapping[str, Schema], required: Sequence[str]) -> Schema:
    more = {"required": [*required]} if required else {}
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def describe_value(spec: Input, file: Schema = _JSON_FILE) -> Schema:
    """The values that an input of a bundle takes, as ``check_value`` checks them. file: how a body has a file."""
    schema = _describe_one(spec, file)
    if spec.many:
        least = {"minItems": 1} if spec.type in FILE_TYPES else {}
        values = {"type": "array", "items": schema, **least}
        schema = values if schema["type"] == "array" else {"anyOf": [schema, values]}
    if spec.takes_null:
        schema = or_null(schema)
    help = ": ".join(filter(None, (spec.help, describe_form(spec) if spec.type in FILE_TYPES else "")))
    schema |= {"description": help} if help else {}
    return schema | ({} if spec.required or spec.type in FILE_TYPES else {"default": spec.default})


def _describe_one(spec: Input, file: Schema) -> Schema:
    """One value of an input."""
    if spec.type in FILE_TYPES:
        return dict(file)
    schema: Schema = {"type": name_type(spec.kinds)}
    if schema["type"] == JSON_NAMES[list]:
        schema["items"] = {"type": JSON_NAMES[float]}
    if schema["type"] == JSON_NAMES[float]:
        schema |= {"minimum": -FLOAT_LIMIT, "maximum": FLOAT_LIMIT}
    if spec.bounds is not None:
        schema |= {_BOUNDS[name]: bound for name, bound in plain_bounds(spec.bounds).items()}
    return schema | ({} if spec.choices is None else {"enum": [*spec.choices]})


def _describe_answer(description: str, content: Mapping[str, Schema], **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return answer | {"content": {kind: {"schema": schema} for kind, schema in content.items()}}


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer_json(description: str, schema: Schema, **headers: str) -> dict[str, Any]:
    return _describe_answer(description, {JSON_TYPE: schema}, **headers)


_JOBS = "the ids of the jobs that drew it"
_STATE: Schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
_PICTURES = _describe_answer(
    "pictures, or with 'stream': true their events",
    {JSON_TYPE: _refer("Images"), EVENT_TYPE: {"type": "string"}},
    x_job_id=_JOBS,
)

_ANSWERS: Mapping[str, Mapping[int, dict[str, Any]]] = {
    "generate_images": {200: _PICTURES},
    "edit_images": {200: _PICTURES},
    "list_models": {200: _answer_json("the bundles", _refer("Models"))},
    "read_model": {200: _answer_json("a bundle", _refer("Model"))},
    "read_workflow": {200: _answer_json("the parameters and outputs of the bundle", _refer("Workflow"))},
    "run_workflow": {
        200: _answer_json("the job, which is done", _refer("Job"), x_job_id=_JOBS),
        202: _answer_json("with 'wait': false, the queued job", _refer("Job"), location="the path of the job"),
    },
    "read_job": {200: _answer_json("the job", _refer("Job"))},
    "cancel_job": {200: _answer_json("the job without outputs", _refer("Job"))},
    "stream_events": {200: _describe_answer("the events progress, preview and end", {EVENT_TYPE: {"type": "string"}})},
    "report_live": {200: _answer_json("the process answers", _STATE)},
    "report_ready": {
        200: _answer_json("new requests are accepted", _STATE),
        503: _answer_json("the server is shutting down", _STATE),
    },
    "report_metrics": {200: _describe_answer("metrics", {"text/plain": {"type": "string"}})},
    "report_api": {200: _answer_json("this document", {"type": "object"})},
}
"""The answers of each endpoint without its errors."""


def _make_schemas() -> dict[str, Schema]:
    """The schemas that answers refer to."""
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer"}
    texts: Schema = {"type": "array", "items": text}
    base64: Schema = {**text, "contentEncoding": "base64"}
    picture = _open_object({"b64_json": base64})
    pictures: Schema = {"type": "array", "items": _refer("Picture")}
    status: Schema = {"enum": [*get_args(Status)]}
    kinds: dict[str, dict[str, Schema]] = {
        "image": {"data": pictures},
        "tensor": {"safetensors": base64},
        "table": {"value": {}},
    }
    file = _open_object({"name": text, "base64": base64})
    written: dict[str, Schema] = {"files": {"type": "array", "items": file}, "failure": text}
    outputs = [
        _open_object({"type": {"const": kind}, **kinds[kind]}, **(written if kind == "tensor" else {}))
        for kind in OUTPUT_TYPES
    ]
    param = _open_object({"type": text, "required": {"type": "boolean"}, "help": text})
    output = _open_object({"type": {"enum": [*OUTPUT_TYPES]}})
    error = _open_object({"message": text, "type": text, "param": or_null(text), "code": or_null(text)})
    model = _open_object({"id": text, "object": {"const": "model"}, "created": count, "owned_by": text})
    return {
        "Error": _open_object({"error": error}),
        "Picture": picture,
        "Images": _open_object({"created": count, "data": pictures}, warnings=texts),
        "Model": model,
        "Models": _open_object({"object": {"const": "list"}, "data": {"type": "array", "items": _refer("Model")}}),
        "Workflow": _open_object(
            {
                "name": text,
                "digest": text,
                "params": {"type": "object", "additionalProperties": param},
                "outputs": {"type": "object", "additionalProperties": output},
            }
        ),
        "Job": _open_object(
            {"id": text, "bundle": text, "status": status, "step": count, "steps": count, "created": count},
            warnings=texts,
            outputs={"type": "object", "additionalProperties": {"oneOf": outputs}},
            error=_open_object({"message": text, "code": text, "status": count}),
        ),
    }


def _open_object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """The schema of an answer, to which later versions may add fields."""
    return {"type": "object", "properties": {**required, **optional}, "required": [*required]}
